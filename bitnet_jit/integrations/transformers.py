"""`patch`: the ternary layers of a loaded transformers model, swapped for packed ones.

transformers has two (`transformers/integrations/bitnet.py`), and their scales have opposite senses:

| layer                  | weight                         | weight_scale | output                                |
|------------------------|--------------------------------|--------------|---------------------------------------|
| BitLinear              | packed, 2 bits                 | 1 / mean|w|  | y / (s_x * weight_scale), then + bias |
| AutoBitLinear, offline | ternary, held in floats        | mean|w|      | (y + bias) * weight_scale             |
| AutoBitLinear, online  | floats, quantized each forward | none         | y + bias                              |

An online weight is quantized by `quantize_weight`, which divides where transformers multiplies by a rounded inverse: a
weight that lies within one float32 rounding of half the scale may get another code than there.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bitnet_jit.checkpoints.formats.hf_packing import count_codes, repack
from bitnet_jit.checkpoints.ternary import DENSITY, MAX_MULTIPLIER, SMALLEST_DIVISOR
from bitnet_jit.errors import CheckpointError, CheckpointWarning, InvalidInput
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.packing import get_format
from bitnet_jit.quant import quantize_weight

I2 = get_format("i2")


def patch(model: nn.Module, format: str = "i2") -> nn.Module:
    """Swap every BitLinear and AutoBitLinear of a loaded transformers model for a `PackedBitLinear`, in place.

    All layers are made before the first is swapped, so an error leaves the model as it was; then the old weights are
    dropped. A patched model runs and generates as before. Save it with `bitnet_jit.save`, which transformers reads:
    `save_pretrained` raises InvalidInput, since it would write our tensors under a config that promises its own.

    Args:
        model: a model whose weights are loaded, such as a BitNetForCausalLM or a LlamaForCausalLM.
        format: the packing, "i2" or "t5".

    Returns:
        The model.

    Raises:
        InvalidInput: there is no such layer, or one is still on the meta device.
        CheckpointError: a layer holds a code that is not ternary, or a scale that is not positive and finite.

    Warns:
        CheckpointWarning: a scale's value contradicts its sense, or a weight has an unlikely share of non-zeros.
    """
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    get_format(format)
    odd: list[str] = []

    def make(name: str, layer: Any) -> nn.Module:
        for tensor_name, tensor in layer.state_dict().items():
            if tensor.is_meta:
                raise InvalidInput(f"{name}.{tensor_name}: is on the meta device; load the model before it is patched")
        if isinstance(layer, BitLinear):
            found = read_packed(name, layer)
        else:
            found = read_online(layer) if layer.online_quant else read_offline(name, layer)
        odd.extend(filter(None, (found.odd, check_codes(name, found.w_packed, layer.in_features))))
        return build(name, found, layer, format).train(layer.training)

    patched = replace(model, (BitLinear, AutoBitLinear), make)
    if odd:
        others = f"; and {len(odd) - 1} more" if len(odd) > 1 else ""
        warnings.warn(f"{odd[0]}{others}", CheckpointWarning, stacklevel=2)
    return patched


@dataclass(frozen=True)
class Ternary:
    """What a layer of transformers computes with, in our terms.

    Attributes:
        w_packed: canonical i2, uint8 (N, ceil(K / 4)).
        w_scale: float32 (), multiplies.
        bias: (N,) or None, added last.
        odd: what is unlikely about the scale, in words.
    """

    w_packed: torch.Tensor
    w_scale: torch.Tensor
    bias: torch.Tensor | None
    odd: str = ""


def read_packed(name: str, layer: Any) -> Ternary:
    """A BitLinear: packed codes and a divisor."""
    weight, (out_features, in_features) = layer.weight, (layer.out_features, layer.in_features)
    if weight.dtype != torch.uint8 or weight.shape != (-(-out_features // 4), in_features):
        raise CheckpointError(
            f"{name}.weight: expected uint8 {(-(-out_features // 4), in_features)} for {out_features} x {in_features}, "
            f"found {weight.dtype} {tuple(weight.shape)}"
        )
    w_packed = torch.empty(I2.packed_shape(out_features, in_features), dtype=torch.uint8, device=weight.device)
    repack(weight.detach(), w_packed, in_features)
    divisor = stored_scale(name, layer.weight_scale)
    odd = ""
    if divisor < SMALLEST_DIVISOR:
        odd = f"{name}.weight_scale = {divisor.item():g}: BitLinear divides by it, but it looks like a multiplier"
    return Ternary(w_packed, torch.ones_like(divisor) / divisor, copied(layer.bias), odd)


def read_offline(name: str, layer: Any) -> Ternary:
    """An AutoBitLinear with ternary values in floats and a multiplier, which the bias is multiplied by too."""
    weight = layer.weight.detach()
    w_q = weight.sign().to(torch.int8)
    others = weight[w_q != weight]  # NaN is unequal to everything
    if others.numel():
        raise CheckpointError(f"{name}.weight: expected values -1, 0 and 1, found {others[0].item():g}")
    w_scale = stored_scale(name, layer.weight_scale)
    odd = ""
    if w_scale > MAX_MULTIPLIER:
        odd = f"{name}.weight_scale = {w_scale.item():g}: AutoBitLinear multiplies by it, but it looks like a divisor"
    bias = None if layer.bias is None else layer.bias.detach().float() * w_scale
    return Ternary(I2.pack(w_q), w_scale, bias, odd)


def read_online(layer: Any) -> Ternary:
    """An AutoBitLinear with a float weight that each forward quantizes anew."""
    w_q, w_scale = quantize_weight(layer.weight)
    return Ternary(I2.pack(w_q), w_scale, copied(layer.bias))


def stored_scale(name: str, weight_scale: torch.Tensor) -> torch.Tensor:
    """A weight_scale of one element, as float32 (): it and its inverse are positive and finite, or CheckpointError."""
    if weight_scale.numel() != 1:
        raise CheckpointError(f"{name}.weight_scale: expected one element, found {tuple(weight_scale.shape)}")
    scale = weight_scale.detach().float().reshape(())
    if not (0 < scale.item() < float("inf") and torch.isfinite(1 / scale)):
        raise CheckpointError(f"{name}.weight_scale: expected a positive finite number, found {scale.item():g}")
    return scale.clone()


def check_codes(name: str, w_packed: torch.Tensor, in_features: int) -> str:
    """CheckpointError where a code is 3; a remark on a share of non-zeros that no trained model has, or ""."""
    count = count_codes(w_packed, in_features)
    if count.threes:
        raise CheckpointError(f"{name}.weight: expected codes 0, 1 and 2, found the code 3 in {count.threes} places")
    if DENSITY[0] <= count.density <= DENSITY[1]:
        return ""
    return f"{name}.weight: expected a share of non-zeros in {DENSITY[0]}..{DENSITY[1]}, found {count.density:.3f}"


def copied(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias of its own storage, so that nothing of the old layer stays alive."""
    return None if bias is None else bias.detach().clone()


def build(name: str, found: Ternary, layer: Any, format: str) -> PackedBitLinear:
    """The packed layer, with the norm that `use_rms_norm` put inside; an error of its checks names the layer."""
    in_features = layer.in_features
    try:
        if format == "i2":
            packed = PackedBitLinear.from_packed(found.w_packed, found.w_scale, found.bias, in_features=in_features)
        else:
            w_q = I2.unpack(found.w_packed, in_features)
            packed = PackedBitLinear.from_codes(w_q, found.w_scale, found.bias, format=format)
    except InvalidInput as error:
        raise CheckpointError(f"{name}: {error}") from None
    float_tensor = layer.weight if layer.weight.is_floating_point() else layer.weight_scale
    packed.weight_dtype = float_tensor.dtype  # what the model computes in
    if layer.rms_norm is not None:
        norm = RMSNorm(in_features, layer.rms_norm.variance_epsilon)
        norm.weight = nn.Parameter(layer.rms_norm.weight.detach().clone())
        packed.put_inside(norm)
    return packed
