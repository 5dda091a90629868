"""What a problem is made of: bytes that must be moved and operations that must be done, whatever kernel does it."""

from dataclasses import dataclass
from math import prod

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.problem import Problem

OPERATIONS_A_BYTE = 300.0  # about what devices do in the time of reading a byte: it orders problems, no more


@dataclass(frozen=True)
class Work:
    """Of one call.

    Attributes:
        num_bytes: read and written once: the packed weight, x and y.
        num_operations: a multiply-add counts as two; 0 for row-wise ops.
    """

    num_bytes: int
    num_operations: int

    @property
    def weight(self) -> float:
        """How long it takes at least, in no unit: to compare problems of one device."""
        return max(self.num_bytes, self.num_operations / OPERATIONS_A_BYTE)


def work_of(problem: Problem) -> Work:
    """The work of a call with as many rows as the problem's bucket has.

    >>> work_of(Problem("bit_linear", "cpu", 1, 64, 128, "i2", "a8"))
    Work(num_bytes=2816, num_operations=16384)
    """
    rows, features, outputs = problem.rows, problem.in_features, problem.out_features
    inputs = 2 if "_mul_" in problem.op or problem.op == "rms_norm_gradients" else 1
    x_bytes, y_bytes = (getattr(torch, dtype).itemsize for dtype in (problem.x_dtype, problem.y_dtype))
    num_bytes = rows * (inputs * features * x_bytes + outputs * y_bytes)
    if not problem.layout:
        return Work(num_bytes, 0)
    num_bytes += prod(registry.get_layout(problem.layout).shape(outputs, features))
    return Work(num_bytes, 2 * rows * features * outputs)
