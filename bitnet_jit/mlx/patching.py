"""`patch`: a model that mlx-lm has loaded, on our kernels: `mlx_lm.generate` and its server then run on them.

| mlx-lm's layer                | holds                                                  | becomes                |
|-------------------------------|--------------------------------------------------------|------------------------|
| `BitLinear`                   | Hugging Face's packing, a scale or a divisor           | canonical i2, laid     |
| `nn.QuantizedLinear`, 2 bits  | canonical i2, scales and biases per group              | the same codes, if all |
|                               |                                                        | biases are -scales and |
|                               |                                                        | no code is 3           |
"""

import sys
from typing import Any, TypeVar

import mlx.core as mx
from mlx import nn

from bitnet_jit.checkpoints.checks import CodeCount
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.checkpoints.formats.hf_packing import HUGGING_FACE
from bitnet_jit.checkpoints.ternary import empty_i2
from bitnet_jit.devices.mlx import to_array, to_tensor
from bitnet_jit.errors import InvalidInput
from bitnet_jit.mlx.converting import replaced
from bitnet_jit.mlx.ops import lay
from bitnet_jit.mlx.packed import PackedBitLinear
from bitnet_jit.nn.checks import check_options
from bitnet_jit.quant.ternary import coarsest_scale

Model = TypeVar("Model", bound=nn.Module)
MODULE, CLASS = "mlx_lm.models.bitlinear_layers", "BitLinear"  # which a loaded model has imported
TERNARY_BITS = 2
EXPECTED = "mlx-lm's BitLinear, or QuantizedLinear of ternary weights in 2 bits"


def patch(model: Model, activation: str = "a16") -> Model:
    """Replace the ternary layers of a loaded model of mlx-lm by `PackedBitLinear`, in place.

    Args:
        model: as `mlx_lm.load` returns it; set its dtype before.
        activation: "a16" computes in floating point, as mlx-lm does; "a8" quantizes inputs to int8, as BitNet's
            checkpoints were trained.

    Returns:
        The model.

    Raises:
        InvalidInput: it holds no such layer, codes that are not ternary, or the activation is unknown. Then nothing is
            changed.

    >>> layer = nn.QuantizedLinear(128, 2, bias=False, bits=2)
    >>> layer.scales, layer.biases = mx.ones((2, 2)), -mx.ones((2, 2))
    >>> layer.weight = mx.zeros((2, 8), dtype=mx.uint32)
    >>> patch(nn.Sequential(layer))(mx.ones((1, 128))).tolist()
    [[-128.0, -128.0]]
    """
    check_options("i2", "tensor", 0, activation)
    return replaced(model, lambda module: packed_twin(module, activation), EXPECTED)


def packed_twin(module: Any, activation: str) -> PackedBitLinear | None:
    """Return a ternary layer of mlx-lm as ours, None for any other module."""
    kind = getattr(sys.modules.get(MODULE), CLASS, None)
    if kind is not None and isinstance(module, kind):
        twin = of_bit_linear(module, activation)
    elif isinstance(module, nn.QuantizedLinear) and is_ternary(module):
        twin = of_quantized(module, activation)
    else:
        return None
    twin.train(module.training)
    return twin


def of_bit_linear(module: Any, activation: str) -> PackedBitLinear:
    """Return mlx-lm's `BitLinear` as ours."""
    sizes = module.out_features, module.in_features
    canonical = empty_i2(*sizes)
    check_codes(decode(HUGGING_FACE, to_tensor(module.weight), canonical, module.in_features))
    scale = module.weight_scale.astype(mx.float32).reshape(())
    scale = 1.0 / scale if module.invert_weight_scales else scale
    return make_packed(to_array(canonical), scale, module, sizes, 0, activation)


def is_ternary(module: Any) -> bool:
    """Return whether a quantized layer holds 2-bit codes of which each is -1, 0 or 1 times its scale."""
    if module.bits != TERNARY_BITS or getattr(module, "mode", "affine") != "affine":
        return False
    codes = module.weight & (module.weight >> 1) & 0x55555555  # of both bits of a code
    ternary = mx.logical_and(mx.array_equal(module.biases, -module.scales), mx.logical_not(mx.any(codes)))
    return bool(ternary.item())


def of_quantized(module: Any, activation: str) -> PackedBitLinear:
    """Return a quantized layer of ternary weights as ours."""
    out_features, words = module.weight.shape
    w_scale = coarsest_scale(to_tensor(module.scales).float())
    group_size = module.group_size if w_scale.dim() == len(("row", "group")) else 0
    sizes = out_features, words * 32 // TERNARY_BITS
    return make_packed(module.weight.view(mx.uint8), to_array(w_scale), module, sizes, group_size, activation)


def make_packed(
    canonical: mx.array, w_scale: mx.array, module: Any, sizes: tuple[int, int], group_size: int, activation: str
) -> PackedBitLinear:
    """Return a layer of canonical codes, with the bias of another one."""
    bias = getattr(module, "bias", None)
    arrays = lay(canonical, *sizes), w_scale
    mx.eval(*arrays)
    return PackedBitLinear(*arrays, bias, in_features=sizes[1], group_size=group_size, activation=activation)


def check_codes(count: CodeCount) -> None:
    """Raise InvalidInput where codes are not ternary."""
    if count.threes:
        raise InvalidInput(f"model: expected ternary codes, found {count.threes} of {count.codes} that are 3")
