"""`quantize_weight`, `dequantize_weight`, `dequantize_activation`: floats to codes, and back; and `round_weight` and
`round_activation`, which do both."""

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.norm import QUANTIZE_ACTIVATION
from bitnet_jit.ops.op import define
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import (
    DTYPE,
    LAYOUT,
    NUMBER,
    PACKED_OPTIONS,
    PACKED_SHAPE,
    ROWS,
    W_PACKED,
    W_SCALE,
    WEIGHT,
    WEIGHT_SHAPE,
    X_Q,
    X_SCALE,
    X,
)

QUANTIZE_WEIGHT = define(
    OpSpec(
        "quantize_weight",
        (WEIGHT, LAYOUT),
        (Output("w_packed", PACKED_SHAPE, torch.uint8), Output("w_scale", NUMBER, torch.float32)),
        scale="tensor",
    )
)
DEQUANTIZE_WEIGHT = define(
    OpSpec("dequantize_weight", (W_PACKED, W_SCALE, *PACKED_OPTIONS, DTYPE), (Output("w", WEIGHT_SHAPE, "dtype"),))
)
DEQUANTIZE_ACTIVATION = define(OpSpec("dequantize_activation", (X_Q, X_SCALE, DTYPE), (Output("x", ROWS, "dtype"),)))


def layout_for(weight: torch.Tensor) -> str:
    """Return the layout in which a weight is packed that is quantized where it is, in each step of a training."""
    return registry.training_layout(weight.device.type).name


def make_round_weight(weight: torch.Tensor) -> Call:
    """Return what rounds weights like this one."""
    layout, (out_features, in_features), dtype = layout_for(weight), weight.shape, weight.dtype

    def call(weight):
        codes = QUANTIZE_WEIGHT.run(weight, layout)
        return DEQUANTIZE_WEIGHT.run(*codes, in_features, out_features, layout, 0, dtype)

    return call


def make_round_activation(x: torch.Tensor) -> Call:
    """Return what rounds activations like these."""
    return lambda x: DEQUANTIZE_ACTIVATION.run(*QUANTIZE_ACTIVATION.run(x), x.dtype)


ROUND_WEIGHT = define(OpSpec("round_weight", (WEIGHT,), (Output("w", WEIGHT_SHAPE, "weight"),)), make_round_weight)
ROUND_ACTIVATION = define(OpSpec("round_activation", (X,), (Output("y", ROWS, "x"),)), make_round_activation)

quantize_weight, dequantize_weight = QUANTIZE_WEIGHT.eager, DEQUANTIZE_WEIGHT.eager
dequantize_activation = DEQUANTIZE_ACTIVATION.eager
