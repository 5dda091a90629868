"""`head_logits`: the output head, which turns hidden states into logits in float32.

A head of floats is widened as it is read. A head of int8 has a scale per row, and multiplies hidden states of 15 bits:
q = 128 hi + lo with int8 hi and lo, so that the sums of both are exact integers. `reference.py` has the formulas.
"""

from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.linear import multiply_adds
from bitnet_jit.ops.shapes import Dims, Seen, certainly
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import OUT_ROWS, WEIGHT_SHAPE, X
from bitnet_jit.problem import MAX_INT8_HEAD_FEATURES, Problem


@dataclass(frozen=True)
class RowScale(Tensor):
    """The scales of a matrix's rows, which one of int8 has and no other.

    Attributes:
        matrix: the argument that it stands beside, which is checked before.
        max_features: inputs that a matrix of int8 has at most; None: any number.
    """

    matrix: str = "head"
    max_features: int | None = None

    def dtype_in(self, problem: Problem) -> str:
        """Return the name of its dtype in calls that pose a problem; "" where it is absent."""
        return "float32" if problem.w_dtype == "int8" else ""

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it fits, and is there where the matrix needs one."""
        matrix, most = seen.values[self.matrix], self.max_features
        quantized = matrix.dtype == torch.int8
        if quantized and value is None:
            raise InvalidInput(f"{self.name}: expected float32 (N,) beside a {self.matrix} of int8, got None")
        if not quantized and value is not None:
            expected = f"expected None beside a {self.matrix} of {matrix.dtype}"
            raise InvalidInput(f"{self.name}: {expected}, got {value.dtype}")
        if quantized and most is not None and certainly(seen.sizes["K"] > most):
            raise InvalidInput(
                f"{self.matrix}: a {self.matrix} of int8 has at most {most} inputs, got {tuple(matrix.shape)}"
            )
        super().check(value, seen)


def is_exact(problem: Problem) -> bool:
    """Return whether logits are made of integer sums."""
    return problem.w_dtype == "int8"


HEAD = Tensor("head", (*FLOATS, torch.int8), WEIGHT_SHAPE, field="w_dtype")
HEAD_SCALE = RowScale("head_scale", (torch.float32,), Dims("N"), optional=True, max_features=MAX_INT8_HEAD_FEATURES)
HEAD_LOGITS = define_by_kernels(
    OpSpec(
        "head_logits",
        (X, HEAD, HEAD_SCALE),
        (Output("logits", OUT_ROWS, torch.float32),),
        exact=is_exact,
        operations=multiply_adds,
    )
)
head_logits = HEAD_LOGITS.eager
