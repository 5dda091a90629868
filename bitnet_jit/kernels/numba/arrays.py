"""Numba kernels on NumPy arrays, without torch: for tests, for tools, and for machines that have no torch.

bfloat16 has no NumPy dtype: its bits travel as uint16, and the dtype is named beside the array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.threads.openmp import Fork
from bitnet_jit.problem import Problem

ALIGN = 64
STORAGE = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32, "int8": np.int8, "int32": np.int32}


@dataclass(frozen=True)
class Team:
    """Threads for a call: how many, and the address they come from (`threads.Fork`)."""

    threads: int = 1
    fork: int = 0


def all_threads(threads: int) -> Team:
    """A team of that many threads."""
    return Team(threads, Fork().address)


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Uninitialized bytes whose address is a multiple of 64."""
    raw = np.empty(num_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + num_bytes]


def address(array: NDArray[Any] | None) -> int:
    """Where a contiguous array begins; 0 for none."""
    return 0 if array is None else int(array.ctypes.data)


def run_linear(
    kernel: Kernel,
    problem: Problem,
    config: Config,
    x: NDArray[Any],
    w_packed: NDArray[np.uint8],
    w_scale: NDArray[np.float32] | None = None,
    bias: NDArray[Any] | None = None,
    x_scale: NDArray[np.float32] | None = None,
    y: NDArray[Any] | None = None,
    team: Team | None = None,
) -> NDArray[Any]:
    """Run a linear kernel.

    Args:
        kernel, problem, config: what runs, for what, and how.
        x: (rows, in_features) of problem.x_dtype, contiguous.
        w_packed: in problem.layout.
        w_scale: float32 of the layout that problem.scale names, or None for bare sums.
        bias: (out_features,) of problem.bias, or None.
        x_scale: (rows,) float32, with x of int8; or None.
        y: where to write, (rows, out_features) of problem.y_dtype; made if None.
        team: the threads; one if None.

    Returns:
        y.
    """
    bound, team = kernel.bind(problem, config), team or Team()
    rows = x.shape[0]
    if y is None:
        y = np.empty((rows, problem.out_features), STORAGE[problem.y_dtype])
    if rows:
        workspace = aligned(bound.workspace_bytes(rows))
        operands = map(address, (x, x_scale, w_packed, w_scale, bias, y))
        bound.entry(rows)(None, team.fork, team.threads, *operands, bound.sizes(rows), address(workspace))
    return y


def run_norm_gradients(
    kernel: Kernel,
    problem: Problem,
    dy: NDArray[Any],
    x: NDArray[Any],
    weight: NDArray[Any],
    eps: float = 1e-5,
    team: Team | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run a kernel of a norm's gradients: dx (rows, features) and dw (features,); rows are at least one."""
    team, bound = team or Team(), kernel.bind(problem, kernel.configs(problem)[0])
    dx, dw = np.full(x.shape, 77, x.dtype), np.full(weight.shape, 77, weight.dtype)
    threads = min(team.threads, bound.max_threads)
    workspace = aligned(bound.workspace_bytes(threads))
    operands = (*map(address, (dy, x, weight)), eps, address(dx), address(dw))
    bound.entry(None, team.fork, threads, *operands, *x.shape, address(workspace))
    return dx, dw


def run_rows(
    kernel: Kernel,
    problem: Problem,
    x: NDArray[Any],
    up: NDArray[Any] | None = None,
    weight: NDArray[Any] | None = None,
    eps: float = 1e-5,
    team: Team | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Run a row-wise kernel: y (or codes) (rows, features) and scales (rows,), NaN where the op has none."""
    team = team or Team()
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    rows, features = x.shape
    y = np.full(x.shape, 77, STORAGE[problem.y_dtype])
    scale = np.full(rows, np.nan, np.float32)
    if rows:
        threads = min(team.threads, bound.max_threads)
        workspace = aligned(bound.workspace_bytes(threads))
        operands = address(x), address(up), address(weight), eps, address(y), address(scale)
        bound.entry(None, team.fork, threads, *operands, rows, features, address(workspace))
    return y, scale
