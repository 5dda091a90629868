"""`quantize_weight`, `dequantize_weight` and `dequantize_activation` as torch sees them: floats to codes, and back; and
`round_weight` and `round_activation`, which do both."""

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import Call, describe, dtype_name
from bitnet_jit.ops.library import define
from bitnet_jit.ops.linear import SCALES
from bitnet_jit.ops.lookup import KernelLookup, Lookup
from bitnet_jit.ops.norm import QUANTIZE_ACTIVATION
from bitnet_jit.problem import Problem


def quantize_problem(weight, layout) -> Problem:
    """Return the problem of `quantize_weight`."""
    return describe("quantize_weight", weight, weight.shape[0], layout=layout, y_dtype="uint8", scale="tensor")


def dequantize_problem(w_packed, w_scale, in_features, out_features, layout, group_size, dtype) -> Problem:
    """Return the problem of `dequantize_weight`."""
    return describe(
        "dequantize_weight",
        w_packed,
        out_features,
        in_features=in_features,
        layout=layout,
        y_dtype=dtype_name(dtype),
        scale=SCALES[w_scale.dim()],
        group_size=group_size,
    )


def activation_problem(x_q, x_scale, dtype) -> Problem:
    """Return the problem of `dequantize_activation`."""
    return describe("dequantize_activation", x_q, x_q.shape[-1], y_dtype=dtype_name(dtype))


QUANTIZE_WEIGHT = KernelLookup("quantize_weight", quantize_problem)
DEQUANTIZE_WEIGHT = KernelLookup("dequantize_weight", dequantize_problem)
DEQUANTIZE_ACTIVATION = KernelLookup("dequantize_activation", activation_problem)


def fake_quantize_weight(weight, layout):
    shape = registry.get_layout(layout).shape(*weight.shape)
    return weight.new_empty(shape, dtype=torch.uint8), weight.new_empty((), dtype=torch.float32)


def fake_dequantize_weight(w_packed, w_scale, in_features, out_features, layout, group_size, dtype):
    return w_packed.new_empty((out_features, in_features), dtype=dtype)


def fake_dequantize_activation(x_q, x_scale, dtype):
    return x_q.new_empty(x_q.shape, dtype=dtype)


def layout_for(weight: torch.Tensor) -> str:
    """The layout in which a weight is packed that is quantized where it is, in each step of a training."""
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


ROUND_WEIGHT = Lookup("round_weight", make_round_weight)
ROUND_ACTIVATION = Lookup("round_activation", make_round_activation)


def fake_round(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


define("quantize_weight(Tensor weight, str layout) -> (Tensor, Tensor)", QUANTIZE_WEIGHT.run, fake_quantize_weight)
define(
    "dequantize_weight(Tensor w_packed, Tensor w_scale, int in_features, int out_features, str layout, "
    "int group_size, ScalarType dtype) -> Tensor",
    DEQUANTIZE_WEIGHT.run,
    fake_dequantize_weight,
)
define(
    "dequantize_activation(Tensor x_q, Tensor x_scale, ScalarType dtype) -> Tensor",
    DEQUANTIZE_ACTIVATION.run,
    fake_dequantize_activation,
)
define("round_weight(Tensor weight) -> Tensor", ROUND_WEIGHT.run, fake_round)
define("round_activation(Tensor x) -> Tensor", ROUND_ACTIVATION.run, fake_round)
