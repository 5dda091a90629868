"""Checks of a layer's sizes, options and bias: each raises InvalidInput that names the argument and its value."""

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import get_format
from bitnet_jit.problem import ACTIVATIONS, MAX_IN_FEATURES
from bitnet_jit.quant.checks import check_grouping

MAX_OUT_FEATURES = 2**31 - 1


def check_features(in_features: int, out_features: int) -> tuple[int, int]:
    """Return both sizes as Python ints: positive, and so that no int32 sum over the inputs can overflow."""
    inputs, outputs = as_whole(in_features), as_whole(out_features)
    if inputs is None or not 1 <= inputs <= MAX_IN_FEATURES:
        raise InvalidInput(f"in_features: expected 1 to {MAX_IN_FEATURES}, got {show(in_features)}")
    if outputs is None or outputs < 1:
        raise InvalidInput(f"out_features: expected at least 1, got {show(out_features)}")
    if outputs > MAX_OUT_FEATURES:
        raise InvalidInput(f"out_features: expected at most {MAX_OUT_FEATURES}, got {show(out_features)}")
    return inputs, outputs


def check_options(format: str, scale: str, group_size: int, activation: str) -> int:
    """Return the size of a group as a Python int, where the options are known and go together."""
    get_format(format)
    size = check_grouping(scale, group_size)
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if activation == "a8g" and scale != "group":
        raise InvalidInput(f"activation: 'a8g' goes with scale='group', got scale={scale!r}")
    if size > MAX_IN_FEATURES:
        raise InvalidInput(f"group_size: expected at most {MAX_IN_FEATURES}, got {show(group_size)}")
    if scale == "group" and format == "t5":
        raise InvalidInput(
            "format: t5 takes no group scales, because its steps of 20 inputs divide no usual group; use format='i2'"
        )
    return size


def check_bias(bias: torch.Tensor | None, out_features: int) -> None:
    """Raise InvalidInput unless the bias is None or floating point (out_features,)."""
    if bias is not None and (bias.dtype not in FLOATS or tuple(bias.shape) != (out_features,)):
        raise InvalidInput(f"bias: expected floating point ({out_features},), got {bias.dtype} {tuple(bias.shape)}")
