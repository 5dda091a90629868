"""The work of a problem: bytes that must be moved and operations that must be done, whatever kernel does it."""

from dataclasses import dataclass
from math import prod

import torch

from bitnet_jit.kernels.operands import Operand
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

OPERATIONS_PER_BYTE = 300.0  # about what devices do in the time of reading a byte: it orders problems, no more


@dataclass(frozen=True)
class Work:
    """The work of one call.

    Attributes:
        num_bytes: of all operands, each read or written once.
        num_operations: a multiply-add counts as two; 0 for row-wise ops.
    """

    num_bytes: int
    num_operations: int

    @property
    def weight(self) -> float:
        """Return how long it takes at least, in no unit: to compare problems of one device."""
        return max(self.num_bytes, self.num_operations / OPERATIONS_PER_BYTE)


def work_of(problem: Problem) -> Work:
    """Return the work of a call with as many rows as the problem's bucket has.

    >>> import bitnet_jit.ops
    >>> work_of(Problem("bit_linear", "cpu", 1, 64, 128, "i2", "a8", scale="tensor"))
    Work(num_bytes=2820, num_operations=16384)
    """
    spec = OPS[problem.op].spec
    operands = spec.operands_of(problem, (problem.rows,))
    num_bytes = sum(map(size_of, (*operands.inputs, *operands.outputs)))
    return Work(num_bytes, spec.operations(problem))


def size_of(operand: Operand) -> int:
    """Return the bytes of an operand; 0 where it is absent."""
    return prod(operand.shape) * getattr(torch, operand.dtype).itemsize if operand.dtype else 0
