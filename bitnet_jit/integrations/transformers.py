"""`patch`: swaps the ternary layers of a loaded transformers model for packed ones.

transformers has two (`transformers/integrations/bitnet.py`), and their scales have opposite senses:

| layer                  | weight                         | weight_scale | output                                |
|------------------------|--------------------------------|--------------|---------------------------------------|
| BitLinear              | packed, 2 bits                 | 1 / mean|w|  | y / (s_x * weight_scale), then + bias |
| AutoBitLinear, offline | ternary, held in floats        | mean|w|      | (y + bias) * weight_scale             |
| AutoBitLinear, online  | floats, quantized each forward | none         | y + bias                              |

An online weight is quantized by `quantize_weight`, which divides where transformers multiplies by a rounded inverse: a
weight that lies within one float32 rounding of half the scale may get another code than there.
"""

from typing import Any

import torch
from torch import nn

from bitnet_jit.checkpoints.checks import Oddities, check_codes, count_codes, multiplier
from bitnet_jit.checkpoints.formats.hf_bitnet import quantize_into
from bitnet_jit.checkpoints.formats.hf_packing import packed_rows, repack
from bitnet_jit.checkpoints.ternary import TernaryWeight, empty_i2
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.packing import get_format
from bitnet_jit.packing.i2 import I2


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
    oddities = Oddities()

    def make(name: str, layer: Any) -> nn.Module:
        check_loaded(name, layer)
        weight = read(name, layer, isinstance(layer, BitLinear), oddities)
        return build(name, weight, layer, format).train(layer.training)

    patched = replace(model, (BitLinear, AutoBitLinear), make)
    oddities.warn()
    return patched


def check_loaded(name: str, layer: nn.Module) -> None:
    """Raise InvalidInput where a tensor of a layer is on the meta device."""
    for tensor_name, tensor in layer.state_dict().items():
        if tensor.is_meta:
            raise InvalidInput(f"{name}.{tensor_name}: is on the meta device; load the model before it is patched")


def read(name: str, layer: Any, is_packed: bool, oddities: Oddities) -> TernaryWeight:
    """Return a layer of transformers in our terms, in memory of its own, so that nothing of the old layer stays alive.

    Raises:
        CheckpointError: a code is not ternary, or a scale is not positive and finite.
    """
    w_packed = empty_i2(layer.out_features, layer.in_features, layer.weight.device)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    if is_packed or not layer.online_quant:
        (repack_codes if is_packed else pack_codes)(name, layer, w_packed)
        place = f"{name}.weight_scale"
        w_scale = multiplier(place, layer.weight_scale, divides=is_packed)
        oddities.note_scale(place, layer.weight_scale.item(), is_packed, type(layer).__name__)
        if bias is not None and not is_packed:
            bias = bias.float() * w_scale
    else:
        w_scale = quantize_into(layer.weight.detach(), w_packed)
    oddities.note_density(f"{name}.weight", check_codes(f"{name}.weight", count_codes(w_packed, layer.in_features)))
    return TernaryWeight(w_packed, w_scale, bias, layer.in_features)


def repack_codes(name: str, layer: Any, out: torch.Tensor) -> None:
    """Fill `out`, canonical i2, with the codes of a BitLinear."""
    weight, shape = layer.weight.detach(), (packed_rows(layer.out_features), layer.in_features)
    if weight.dtype != torch.uint8 or weight.shape != shape:
        raise CheckpointError(
            f"{name}.weight: expected uint8 {shape} for {layer.out_features} x {layer.in_features}, "
            f"found {weight.dtype} {tuple(weight.shape)}"
        )
    repack(weight, out, layer.in_features)


def pack_codes(name: str, layer: Any, out: torch.Tensor) -> None:
    """Fill `out`, canonical i2, with the ternary values of an AutoBitLinear, which holds them in floats."""
    weight = layer.weight.detach()
    w_q = weight.sign().to(torch.int8)
    others = weight[w_q != weight]  # NaN is unequal to everything
    if others.numel():
        raise CheckpointError(f"{name}.weight: expected values -1, 0 and 1, found {others[0].item():g}")
    out.copy_(I2.pack(w_q))


def build(name: str, weight: TernaryWeight, layer: Any, format: str) -> PackedBitLinear:
    """Return the packed layer, with the norm that `use_rms_norm` put inside; an error of its checks names the layer."""
    in_features = weight.in_features
    try:
        if format == I2.name:
            packed = PackedBitLinear.from_packed(weight.w_packed, weight.w_scale, weight.bias, in_features=in_features)
        else:
            w_q = I2.unpack(weight.w_packed, in_features)
            packed = PackedBitLinear.from_codes(w_q, weight.w_scale, weight.bias, format=format)
    except InvalidInput as error:
        raise CheckpointError(f"{name}: {error}") from None
    float_tensor = layer.weight if layer.weight.is_floating_point() else layer.weight_scale
    packed.weight_dtype = float_tensor.dtype  # the model computes in it
    if layer.rms_norm is not None:
        norm = RMSNorm(in_features, layer.rms_norm.variance_epsilon)
        norm.weight = nn.Parameter(layer.rms_norm.weight.detach().clone())
        packed.put_inside(norm)
    return packed
