"""`round_weight` and `round_activation`: floats to codes and back, for derivatives by torch's own operations."""

from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.norm import QUANTIZE_ACTIVATION
from bitnet_jit.ops.op import define
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import ROWS, WEIGHT, WEIGHT_SHAPE, X
from bitnet_jit.ops.weights import DEQUANTIZE_ACTIVATION, DEQUANTIZE_WEIGHT, QUANTIZE_WEIGHT, layout_for


def make_round_weight(values: tuple[torch.Tensor], seen: Seen) -> Call:
    """Return what rounds weights like this one."""
    (weight,) = values
    layout, (out_features, in_features), dtype = layout_for(weight), weight.shape, weight.dtype

    def call(weight: Any) -> Any:
        codes = QUANTIZE_WEIGHT.run(weight, layout)
        return DEQUANTIZE_WEIGHT.run(*codes, in_features, out_features, layout, 0, dtype)

    return call


def make_round_activation(values: tuple[torch.Tensor], seen: Seen) -> Call:
    """Return what rounds activations like these."""
    return lambda x: DEQUANTIZE_ACTIVATION.run(*QUANTIZE_ACTIVATION.run(x), x.dtype)


ROUND_WEIGHT = define(OpSpec("round_weight", (WEIGHT,), (Output("w", WEIGHT_SHAPE, "weight"),)), make_round_weight)
ROUND_ACTIVATION = define(OpSpec("round_activation", (X,), (Output("y", ROWS, "x"),)), make_round_activation)
