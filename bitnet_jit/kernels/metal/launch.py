"""Launches: kernels with everything decided but their buffers, so that running one decides nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.metal.source import Constants, Source

SIMD = 32  # threads of a simdgroup
MAX_THREADS = 1024  # of a threadgroup
MAX_SIZES = 7  # MLX hands up to so many numbers over in the address space for constants
UNUSED, UNUSED_OUTPUT = "unused", ((8,), "float32")  # what stands where a launch has no output, and is not written
Scratch = dict[str, tuple[tuple[int, ...], str]]  # by name: shape, dtype


@dataclass(frozen=True)
class Launch:
    """One kernel of a call.

    Attributes:
        source: the kernel.
        inputs: for each of the source's inputs the name of a tensor of the call, or None where it has none. A float of
            the call, such as a norm's epsilon, comes as a float32 tensor of one element.
        outputs: for each of its outputs likewise; what stands where there is None is not written.
        constants: its constants.
        sizes: the whole numbers of this call.
        threadgroups: of the grid, by x, y and z.
        threads: of a threadgroup.
        written: names among the outputs that are tensors of the call, which keep what is not written.
    """

    source: Source
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    constants: Constants = field(hash=False)
    sizes: tuple[int, ...]
    threadgroups: tuple[int, int, int]
    threads: int
    written: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.threads % SIMD or not SIMD <= self.threads <= MAX_THREADS:
            raise InvalidInput(f"threads: expected a multiple of {SIMD} up to {MAX_THREADS}, got {self.threads}")
        if len(self.sizes) > MAX_SIZES or any(not 0 <= size < 2**31 for size in self.sizes):
            raise InvalidInput(f"sizes: expected up to {MAX_SIZES} numbers of 31 bits, got {self.sizes}")


@dataclass(frozen=True)
class Bound:
    """A kernel bound to a problem.

    Attributes:
        launches: number of rows -> the launches of a call, in order.
        scratch: number of rows -> what lives between them.
    """

    launches: Callable[[int], tuple[Launch, ...]]
    scratch: Callable[[int], Scratch] = lambda rows: {}


@dataclass(frozen=True)
class Varying:
    """A kernel bound to a problem whose calls vary in more sizes than the number of rows.

    Attributes:
        of: shapes of a call's tensors by name -> the kernel, bound to them.
    """

    of: Callable[[Mapping[str, tuple[int, ...]]], Bound]
