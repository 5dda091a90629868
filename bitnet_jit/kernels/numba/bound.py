"""A kernel that is bound to a problem: what a caller with addresses needs to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.kernels.numba.linear.job import sizes_of
from bitnet_jit.problem import Problem

Entry = Callable[..., None]


class Address(int):
    """The address of an array, which lives as long as this number does."""

    owner: NDArray[Any]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Address":
        """The address of a contiguous array."""
        address = cls(array.ctypes.data)
        address.owner = array
        return address


class BoundLinear:
    """A linear kernel for one problem.

    `entry(rows)` is compiled on first use; call it as entry(rows)(None, fork, threads, x, x_scale, w, w_scale, bias,
    y, sizes(rows), workspace) with addresses of contiguous arrays (0 for what the op lacks) and
    `workspace_bytes(rows)` bytes of scratch memory.
    """

    def __init__(self, problem: Problem, compile_for: Callable[[int], Entry], max_threads: int) -> None:
        self.entry = cache(compile_for)
        self._problem, self._most_threads = problem, max_threads

    def sizes(self, rows: int) -> Address:
        """The address of the `Sizes` of calls with that many rows."""
        return Address.of(np.array(sizes_of(self._problem, rows, self._most_threads), np.int64))

    def workspace_bytes(self, rows: int) -> int:
        """Scratch memory for a call with that many rows."""
        return sizes_of(self._problem, rows, self._most_threads).workspace_bytes


class BoundRows:
    """A row-wise kernel for one problem, on at most `max_threads` threads.

    Call entry(None, fork, threads, x, up, weight, eps, y, scale, rows, features, workspace) with addresses of
    contiguous arrays (0 for what the op lacks) and `workspace_bytes(threads)` bytes of scratch memory; of
    `dequantize_activation` entry(None, fork, threads, x_q, x_scale, x, rows, features, workspace), and of
    `rms_norm_gradients` entry(None, fork, threads, dy, x, weight, eps, dx, dw, rows, features, workspace).
    """

    def __init__(self, entry: Entry, fixed_bytes: int, bytes_per_thread: int, max_threads: int) -> None:
        self.entry, self.max_threads = entry, max_threads
        self._fixed, self._per_thread = fixed_bytes, bytes_per_thread

    def workspace_bytes(self, threads: int) -> int:
        """Scratch memory for a team of that many threads."""
        return self._fixed + threads * self._per_thread


@dataclass(frozen=True)
class BoundWeight:
    """A kernel between a float weight and a packed one, on at most `max_threads` threads.

    Call entry(None, fork, threads, w, w_packed, w_scale, out_features, in_features, workspace) with addresses of
    contiguous arrays and `workspace_bytes` bytes of scratch memory.
    """

    entry: Entry
    out_features: int
    in_features: int
    workspace_bytes: int
    max_threads: int
