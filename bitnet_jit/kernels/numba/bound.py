"""A kernel that is bound to a problem: what a caller with addresses needs to run it."""

from collections.abc import Callable
from functools import cache

from bitnet_jit.kernels.numba.job import inner_bytes, workspace_parts
from bitnet_jit.problem import Problem

Entry = Callable[..., None]
SCALE_KINDS = {"": 0, "tensor": 0, "row": 1, "group": 2}


class BoundLinear:
    """A linear kernel for one problem.

    `entry(rows)` is compiled on first use; call it as entry(rows)(None, fork, threads, x, x_scale, w, w_scale, bias,
    y, rows, *sizes, workspace) with addresses of contiguous arrays (0 for what the op lacks) and
    `workspace_bytes(rows)` bytes of scratch memory.

    Attributes:
        sizes: (in_features, out_features, kind of scale, group size), the constants of every call.
    """

    def __init__(self, problem: Problem, compile_for: Callable[[int], Entry]) -> None:
        groups = -(-problem.in_features // problem.group_size) if problem.scale == "group" else 1
        size = inner_bytes(problem.activation)
        self.sizes = (problem.in_features, problem.out_features, SCALE_KINDS[problem.scale], problem.group_size)
        self.entry = cache(compile_for)
        self.workspace_bytes = cache(lambda rows: workspace_parts(rows, problem.in_features, groups, size)[3])


class BoundRows:
    """A row-wise kernel for one problem.

    Call entry(None, fork, threads, x, up, weight, eps, y, scale, rows, features, workspace) with addresses of
    contiguous arrays (0 for what the op lacks) and `workspace_bytes(threads)` bytes of scratch memory.
    """

    def __init__(self, entry: Entry, fixed_bytes: int, bytes_per_thread: int) -> None:
        self.entry = entry
        self._fixed, self._per_thread = fixed_bytes, bytes_per_thread

    def workspace_bytes(self, threads: int) -> int:
        """Scratch memory for a team of that many threads."""
        return self._fixed + threads * self._per_thread
