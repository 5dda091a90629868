"""What each op takes: one record an op, by which its calls are checked and told apart, traced ones and others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.ops.arguments import (
    FLOATS,
    Argument,
    Dims,
    Dtype,
    Epsilon,
    LayoutName,
    PackedShape,
    ScaleShape,
    Seen,
    Tensor,
    Whole,
    Word,
)

ACTIVATIONS = ("a8", "a16")
INT8, UINT8, FLOAT32 = (torch.int8,), (torch.uint8,), (torch.float32,)
ROWS, OUT_ROWS = Dims(..., "K"), Dims(..., "N")


@dataclass(frozen=True)
class Signature:
    """The arguments of an op.

    Attributes:
        op: its name.
        arguments: in the order of its schema; the first one is a tensor, on whose device the others have to be.
        leads: the tensor that sets the sizes of the others, where that is not the first one.
    """

    op: str
    arguments: tuple[Argument, ...]
    leads: str = ""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors among the arguments."""
        return tuple(argument for argument in self.arguments if isinstance(argument, Tensor))

    def check(self, values: Sequence[Any]) -> None:
        """Check the arguments of a call, before anything is computed.

        Args:
            values: in the order of the schema; last ones that have a default may be missing.

        Raises:
            InvalidInput: one is not what the op takes, or does not fit the others.

        >>> SIGNATURES["rms_norm"].check((torch.ones(3, 64), torch.ones(64), 1e-5))
        >>> SIGNATURES["rms_norm"].check((torch.ones(3, 64), torch.ones(32), 1e-5))
        Traceback (most recent call last):
        ...
        bitnet_jit.errors.InvalidInput: weight: expected float32, bfloat16, float16 (64,), got torch.float32 (32,)
        """
        seen = Seen(dict(zip((argument.name for argument in self.arguments), values, strict=False)))
        for tensor in self.tensors:
            tensor.check_kind(seen.values[tensor.name])
        for argument in sorted(self.arguments, key=self._turn):
            if argument.name in seen.values:
                argument.check(seen.values[argument.name], seen)

    def _turn(self, argument: Argument) -> int:
        """Return when an argument is checked: options first, then the tensor that leads, then other tensors."""
        return isinstance(argument, Tensor) + (isinstance(argument, Tensor) and argument.name != self.leads)


X = Tensor("x", FLOATS, ROWS)
X_Q = Tensor("x_q", INT8, ROWS)
X_SCALE = Tensor("x_scale", FLOAT32, Dims(...))
W_PACKED = Tensor("w_packed", UINT8, PackedShape())
W_SCALE = Tensor("w_scale", FLOAT32, ScaleShape())
WEIGHT = Tensor("weight", FLOATS, Dims("N", "K"))
BIAS = Tensor("bias", FLOATS, Dims("N"), optional=True)
NORM_WEIGHT = Tensor("weight", FLOATS, Dims("K"))
EPS = Epsilon("eps")
LAYOUT = LayoutName("layout")
SIZES = (Whole("in_features", 1, "K"), Whole("out_features", 1, "N"))
PACKED_OPTIONS = (*SIZES, LAYOUT, Whole("group_size"))
LINEAR = (W_PACKED, W_SCALE, BIAS, *PACKED_OPTIONS)
ACTIVATION = Word("activation", ACTIVATIONS)
GATED = (Tensor("gate", FLOATS, ROWS), Tensor("up", FLOATS, ROWS, like="gate"))

SIGNATURES = {
    signature.op: signature
    for signature in (
        Signature("bit_linear", (X, *LINEAR, ACTIVATION)),
        Signature("quantized_linear", (X_Q, X_SCALE, *LINEAR, Dtype("y_dtype"))),
        Signature("ternary_matmul", (X_Q, W_PACKED, *SIZES, LAYOUT)),
        Signature("rms_norm_bit_linear", (X, NORM_WEIGHT, EPS, *LINEAR, ACTIVATION)),
        Signature("bit_linear_input_grad", (Tensor("dy", FLOATS, OUT_ROWS), W_PACKED, W_SCALE, *PACKED_OPTIONS)),
        Signature("quantize_activation", (X,)),
        Signature("rms_norm", (X, NORM_WEIGHT, EPS)),
        Signature("rms_norm_gradients", (Tensor("dy", FLOATS, ROWS, like="x"), X, NORM_WEIGHT, EPS), leads="x"),
        Signature("rms_norm_quantize", (X, NORM_WEIGHT, EPS)),
        Signature("relu2_mul_norm_quantize", (*GATED, NORM_WEIGHT, EPS)),
        Signature("silu_mul_norm_quantize", (*GATED, Tensor("weight", FLOATS, Dims("K"), optional=True), EPS)),
        Signature("quantize_weight", (WEIGHT, LAYOUT)),
        Signature("dequantize_weight", (W_PACKED, W_SCALE, *PACKED_OPTIONS, Dtype("dtype"))),
        Signature("dequantize_activation", (X_Q, X_SCALE, Dtype("dtype"))),
        Signature("round_weight", (WEIGHT,)),
        Signature("round_activation", (X,)),
        Signature(
            "bit_linear_train",
            (X, WEIGHT, BIAS, Tensor("norm_weight", FLOATS, Dims("K"), optional=True), EPS, Whole("revision")),
            leads="weight",
        ),
        Signature(
            "bit_linear_train_weight_grad",
            (Tensor("dy", FLOATS, OUT_ROWS), Tensor("x", FLOATS, ROWS, like="dy"), Dtype("dtype")),
        ),
    )
}
