"""What a layer's tensors and options must be: each check raises InvalidInput that names the argument and its value."""

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import CANONICAL, Format, get_format
from bitnet_jit.problem import MAX_IN_FEATURES

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MAX_OUT_FEATURES = 2**31 - 1
SCALES = ("tensor", "row", "group")
ACTIVATIONS = ("a8", "a16")


def check_features(in_features: int, out_features: int) -> tuple[int, int]:
    """Both sizes as Python's numbers; positive, and no int32 sum over the inputs can overflow."""
    inputs, outputs = as_whole(in_features), as_whole(out_features)
    if inputs is None or not 1 <= inputs <= MAX_IN_FEATURES:
        raise InvalidInput(f"in_features: expected 1 to {MAX_IN_FEATURES}, got {show(in_features)}")
    if outputs is None or outputs < 1:
        raise InvalidInput(f"out_features: expected at least 1, got {show(out_features)}")
    if outputs > MAX_OUT_FEATURES:
        raise InvalidInput(f"out_features: expected at most {MAX_OUT_FEATURES}, got {show(out_features)}")
    return inputs, outputs


def check_options(format: str, scale: str, group_size: int, activation: str) -> int:
    """The words are known and go together; returns the size of a group as Python's number."""
    get_format(format)
    if scale not in SCALES:
        raise InvalidInput(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    size = as_whole(group_size)
    if size is None or size < 0 or (size > 0) != (scale == "group"):
        raise InvalidInput(
            f"group_size: at least 1 with group scales, 0 otherwise; got {show(group_size)} with {scale!r}"
        )
    if size > MAX_IN_FEATURES:
        raise InvalidInput(f"group_size: expected at most {MAX_IN_FEATURES}, got {show(group_size)}")
    if scale == "group" and format == "t5":
        raise InvalidInput(
            "format: t5 takes no group scales, because its steps of 20 inputs divide no usual group; use format='i2'"
        )
    return size


def scale_shape(scale: str, out_features: int, in_features: int, group_size: int) -> tuple[int, ...]:
    """The shape of w_scale.

    >>> [scale_shape(scale, 3, 10, 4) for scale in SCALES]
    [(), (3,), (3, 3)]
    """
    if scale == "group":
        return out_features, -(-in_features // group_size)
    return (out_features,) if scale == "row" else ()


def check_scale(w_scale: torch.Tensor, shape: tuple[int, ...]) -> None:
    """w_scale is float32 of that shape and finite, and not 0 for a whole tensor. Values on meta are not read."""
    if w_scale.dtype != torch.float32 or tuple(w_scale.shape) != shape:
        raise InvalidInput(f"w_scale: expected float32 {shape}, got {w_scale.dtype} {tuple(w_scale.shape)}")
    if w_scale.is_meta:
        return
    if not torch.isfinite(w_scale).all():
        worst = w_scale.flatten()[~torch.isfinite(w_scale).flatten()][0]
        raise InvalidInput(f"w_scale: expected finite values, found {worst.item()}")
    if not shape and w_scale == 0:
        raise InvalidInput("w_scale: a scale of the whole tensor must not be 0, got 0.0")


def check_bias(bias: torch.Tensor | None, out_features: int) -> None:
    """The bias is floating point (out_features,), or there is none."""
    if bias is not None and (bias.dtype not in FLOATS or tuple(bias.shape) != (out_features,)):
        raise InvalidInput(f"bias: expected floating point ({out_features},), got {bias.dtype} {tuple(bias.shape)}")


def check_canonical(w_packed: torch.Tensor, format: Format, out_features: int, in_features: int) -> None:
    """w_packed is a canonical packed weight of that size and holds no code above 2. Values on meta are not read."""
    CANONICAL[format.name].check(w_packed, out_features, in_features)
    if w_packed.is_meta:
        return
    # one pass, at the speed of the memory: which of the 256 bytes there are
    bytes_found = torch.bincount(w_packed.reshape(-1), minlength=256).nonzero().to(torch.uint8)
    try:
        format.check_largest(max(int(codes.max()) for codes in format.digits(bytes_found)))
    except InvalidInput as error:
        raise InvalidInput(f"w_packed: {error}") from None
