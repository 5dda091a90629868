"""`quantize_weight`, `dequantize_weight` and `dequantize_activation` as torch sees them: floats to codes, and back; and
`round_weight` and `round_activation`, which do both."""

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import describe, dtype_name, keep, make_call, new_calls
from bitnet_jit.ops.library import define
from bitnet_jit.ops.linear import FLOATS, SCALES, check_x_scale
from bitnet_jit.ops.norm import quantize_activation
from bitnet_jit.problem import MAX_IN_FEATURES

QUANTIZE, DEQUANTIZE, ACTIVATIONS = new_calls(), new_calls(), new_calls()


def check_weight(weight: torch.Tensor) -> None:
    """Raise InvalidInput unless it is a matrix of floats that a layer can have."""
    if weight.dim() != 2 or weight.dtype not in FLOATS or not 1 <= weight.shape[1] <= MAX_IN_FEATURES:
        raise InvalidInput(
            f"weight: expected {', '.join(map(str, FLOATS))} (N, K) with K from 1 to {MAX_IN_FEATURES}, "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )


def check_dtype(dtype: torch.dtype) -> None:
    """Raise InvalidInput unless codes can become such floats."""
    if dtype not in FLOATS:
        raise InvalidInput(f"dtype: expected one of {', '.join(map(str, FLOATS))}, got {dtype}")


def quantize_weight(weight, layout):
    """w (N, K) -> w_packed in a layout, w_scale ()."""
    key = (weight.shape, weight.dtype, weight.device, layout)
    call = QUANTIZE.get(key)
    if call is None:
        check_weight(weight)
        registry.get_layout(layout)
        problem = describe("quantize_weight", weight, weight.shape[0], layout=layout, y_dtype="uint8", scale="tensor")
        call = keep(QUANTIZE, key, make_call(problem, weight))
    return call(weight)


def fake_quantize_weight(weight, layout):
    shape = registry.get_layout(layout).shape(*weight.shape)
    return weight.new_empty(shape, dtype=torch.uint8), weight.new_empty((), dtype=torch.float32)


def dequantize_weight(w_packed, w_scale, *options):
    """w_packed, w_scale -> w (N, K) of a floating dtype."""
    return find_dequantize(w_packed, w_scale, *options)(w_packed, w_scale)


def find_dequantize(w_packed, w_scale, in_features, out_features, layout, group_size, dtype):
    """What runs `dequantize_weight` on such arguments; where it has `into`, that takes a w to be written over, too."""
    scale = (w_scale.shape, w_scale.dtype, w_scale.device)
    key = (w_packed.shape, w_packed.dtype, w_packed.device, scale, in_features, out_features, layout, group_size, dtype)
    call = DEQUANTIZE.get(key)
    if call is None:
        check_dtype(dtype)
        registry.get_layout(layout).check(w_packed, out_features, in_features)
        problem = describe(
            "dequantize_weight",
            w_packed,
            out_features,
            in_features=in_features,
            layout=layout,
            y_dtype=dtype_name(dtype),
            scale=SCALES[w_scale.dim()],
            group_size=group_size,
        )
        call = keep(DEQUANTIZE, key, make_call(problem, w_packed))
    return call


def fake_dequantize_weight(w_packed, w_scale, in_features, out_features, layout, group_size, dtype):
    return w_packed.new_empty((out_features, in_features), dtype=dtype)


def dequantize_activation(x_q, x_scale, dtype):
    """x_q (..., K) int8, x_scale (...) -> x (..., K) of a floating dtype."""
    key = (x_q.shape, x_q.dtype, x_q.device, x_scale.shape, x_scale.dtype, x_scale.device, dtype)
    call = ACTIVATIONS.get(key)
    if call is None:
        check_dtype(dtype)
        if x_q.dtype != torch.int8 or x_q.dim() < 1 or not 1 <= x_q.shape[-1] <= MAX_IN_FEATURES:
            raise InvalidInput(
                f"x_q: expected torch.int8 (..., K) with K from 1 to {MAX_IN_FEATURES}, "
                f"got {x_q.dtype} {tuple(x_q.shape)}"
            )
        check_x_scale(x_q, x_scale)
        problem = describe("dequantize_activation", x_q, x_q.shape[-1], y_dtype=dtype_name(dtype))
        call = keep(ACTIVATIONS, key, make_call(problem, x_q))
    return call(x_q, x_scale)


def fake_dequantize_activation(x_q, x_scale, dtype):
    return x_q.new_empty(x_q.shape, dtype=dtype)


def layout_for(weight: torch.Tensor) -> str:
    """The layout in which a weight is packed that is quantized where it is, in each step of a training."""
    return registry.training_layout(weight.device.type).name


def round_weight(weight):
    """w (N, K) -> its codes times its scale, in its dtype."""
    layout, (out_features, in_features) = layout_for(weight), weight.shape
    w_packed, w_scale = quantize_weight(weight, layout)
    return dequantize_weight(w_packed, w_scale, in_features, out_features, layout, 0, weight.dtype)


def round_activation(x):
    """x (..., K) -> its codes times their rows' scales, in its dtype."""
    x_q, x_scale = quantize_activation(x)
    return dequantize_activation(x_q, x_scale, x.dtype)


def fake_round(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


define("quantize_weight(Tensor weight, str layout) -> (Tensor, Tensor)", quantize_weight, fake_quantize_weight)
define(
    "dequantize_weight(Tensor w_packed, Tensor w_scale, int in_features, int out_features, str layout, "
    "int group_size, ScalarType dtype) -> Tensor",
    dequantize_weight,
    fake_dequantize_weight,
)
define(
    "dequantize_activation(Tensor x_q, Tensor x_scale, ScalarType dtype) -> Tensor",
    dequantize_activation,
    fake_dequantize_activation,
)
define("round_weight(Tensor weight) -> Tensor", round_weight, fake_round)
define("round_activation(Tensor x) -> Tensor", round_activation, fake_round)
