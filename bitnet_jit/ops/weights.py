"""`quantize_weight`, `dequantize_weight` and `dequantize_activation`: floats to codes, and back."""

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import define_by_kernels
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
)

QUANTIZE_WEIGHT = define_by_kernels(
    OpSpec(
        "quantize_weight",
        (WEIGHT, LAYOUT),
        (Output("w_packed", PACKED_SHAPE, torch.uint8), Output("w_scale", NUMBER, torch.float32)),
        scale="tensor",
    )
)
DEQUANTIZE_WEIGHT = define_by_kernels(
    OpSpec("dequantize_weight", (W_PACKED, W_SCALE, *PACKED_OPTIONS, DTYPE), (Output("w", WEIGHT_SHAPE, "dtype"),))
)
DEQUANTIZE_ACTIVATION = define_by_kernels(
    OpSpec("dequantize_activation", (X_Q, X_SCALE, DTYPE), (Output("x", ROWS, "dtype"),))
)


def layout_for(weight: torch.Tensor) -> str:
    """Return the layout in which a weight is packed that is quantized where it is, in each step of a training."""
    return registry.training_layout(weight.device.type).name


quantize_weight, dequantize_weight = QUANTIZE_WEIGHT.eager, DEQUANTIZE_WEIGHT.eager
dequantize_activation = DEQUANTIZE_ACTIVATION.eager
