"""Numba kernels on NumPy arrays, without torch: for tests, for tools, and for machines that have no torch.

bfloat16 has no NumPy dtype: its bits travel as uint16, and the problem names the dtype.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.bound import ALIGN, ROW_STRIDE, Bound
from bitnet_jit.kernels.numba.threads.fork import process_fork
from bitnet_jit.problem import Problem

STORAGE = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32, "int8": np.int8, "int32": np.int32}
Values = Mapping[str, Any]  # arrays, numbers and None


@dataclass(frozen=True)
class Team:
    """Threads for a call: how many, and the address they come from (`Fork.address`)."""

    threads: int = 1
    fork: int = 0


def all_threads(threads: int) -> Team:
    """Return a team of that many threads."""
    return Team(threads, process_fork().address)


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Return uninitialized bytes whose address is a multiple of ALIGN."""
    raw = np.empty(num_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + num_bytes]


def as_number(value: NDArray[Any] | float | None) -> float:
    """Return a value as an entry point takes it: the address of a contiguous array, a number itself, 0 for None."""
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    return 0 if value is None else value


def run(kernel: Kernel, problem: Problem, values: Values, config: Config = None, team: Team | None = None) -> None:
    """Run a kernel on arrays, its outputs included: it writes over them.

    Args:
        kernel, problem: the kernel, and the problem that it runs for.
        values: contiguous arrays and numbers by the names of the op's arguments and outputs (`Bound.operands`): arrays
            of activations (rows, features), scales, packed weights in problem.layout; None for one that is not given.
        config: the kernel's config; None: the kernel's first one for the problem.
        team: the threads; None: the calling thread alone.

    >>> from bitnet_jit.kernels.numba.rowwise.dequantize import KERNELS
    >>> codes, scales, x = np.array([[1, -2]], np.int8), np.array([0.5], np.float32), np.empty((1, 2), np.float32)
    >>> problem = Problem("dequantize_activation", "cpu", 1, 2, 2, x_dtype="int8", y_dtype="float32")
    >>> run(KERNELS[0], problem, {"x_q": codes, "x_scale": scales, "x": x})
    >>> x.tolist()
    [[0.5, -1.0]]
    """
    bound: Bound = kernel.bind(problem, kernel.configs(problem)[0] if config is None else config)
    team = team or Team()
    values = {ROW_STRIDE: problem.in_features, **values}
    operands = [values[operand] if isinstance(operand, str) else operand for operand in bound.operands]
    rows = len(next(operand for operand in operands if isinstance(operand, np.ndarray) and operand.ndim))
    if rows:
        threads = team.threads if bound.max_threads is None else min(team.threads, bound.max_threads)
        sizes = tuple(values[name].shape[dimension] for name, dimension in bound.sizes)
        num_bytes = bound.workspace_bytes(rows, threads, *sizes)
        numbers = (rows, *sizes, num_bytes) if bound.sizes else bound.numbers(rows)
        workspace = aligned(num_bytes)
        handed = (*map(as_number, operands), *numbers, as_number(workspace))
        bound.entry(rows)(None, team.fork, threads, *handed)
