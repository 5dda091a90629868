"""`LeakCheck`: whether memory grows with the number of calls.

The slope is the median of the slopes between all pairs of samples (Theil and Sen): a single jump, such as a buffer that
grows once or another thread's allocation, hardly moves it, and a leak of a page every few calls does. Memory that was
freed is given back to the system before each sample: a leak would fill it for a long time before the process grew.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import torch

from bitnet_jit.engine.profiling.tables import as_table
from bitnet_jit.engine.tensors.memory_used import resident_bytes
from bitnet_jit.errors import BitNetError
from bitnet_jit.system.memory import give_back

SAMPLES = 32
FROZEN_BY_PYTHON = 1000  # objects at most: 3.12 freezes 375 in a collection; whoever freezes all has many thousands
WARM_SHARE = 0.25  # of the calls, before the first sample: caches and allocators fill


@dataclass(frozen=True)
class LeakCheck:
    """The memory of a process over many calls.

    Attributes:
        calls: that were made between the first sample and the last one.
        samples: (calls so far, bytes held).
        bytes_per_call: the robust slope.
        threshold: bytes per call above which it is a leak.
    """

    calls: int
    samples: tuple[tuple[int, int], ...]
    bytes_per_call: float
    threshold: float

    @property
    def is_leaking(self) -> bool:
        """Return the verdict."""
        return self.bytes_per_call > self.threshold

    @property
    def grown_bytes(self) -> int:
        """Return how much more is held behind the last call than before the first."""
        return self.samples[-1][1] - self.samples[0][1]

    def display(self) -> str:
        """Return the verdict and the figures as a table in plain text."""
        verdict = "leaks" if self.is_leaking else "no leak"
        row = [verdict, f"{self.calls:,}", f"{self.bytes_per_call:.1f}", f"{self.threshold:g}", f"{self.grown_bytes:,}"]
        return as_table("memory over many calls", ["verdict", "calls", "bytes per call", "limit", "grown by"], [row])


def check_leaks(run: Callable[[], object], calls: int, threshold: float, device: torch.device) -> LeakCheck:
    """Call a function many times, and return how the memory of the process, and torch's of a device, grew.

    Raises:
        BitNetError: the system does not tell how much memory a process holds.
    """
    for _ in range(int(WARM_SHARE * calls)):
        run()
    steps = max(1, calls // SAMPLES)
    with frozen():
        samples = [(0, held_bytes(device))]
        for done in range(steps, calls + 1, steps):
            for _ in range(steps):
                run()
            samples.append((done, held_bytes(device)))
    return LeakCheck(samples[-1][0], tuple(samples), robust_slope(samples), threshold)


@contextmanager
def frozen() -> Iterator[None]:
    """Have the garbage collector pass over what is there already in the block: 30 collections would take seconds."""
    gc.collect()
    is_ours = gc.get_freeze_count() < FROZEN_BY_PYTHON  # else it is somebody else's, who would not have it undone
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()


def robust_slope(samples: Sequence[tuple[int, int]]) -> float:
    """Return the median slope between pairs of samples.

    >>> robust_slope([(0, 0), (1, 10), (2, 20), (3, 9999), (4, 40)])
    10.0
    """
    return float(median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2)))


def held_bytes(device: torch.device) -> int:
    """Return what this process holds, with what torch's allocator has handed out of a device's memory."""
    gc.collect()
    give_back()
    resident = resident_bytes()
    if resident is None:
        raise BitNetError("this system does not tell how much memory a process holds, so leaks cannot be found here")
    allocated = getattr(getattr(torch, device.type, None), "memory_allocated", None)
    return resident + (0 if allocated is None else int(allocated(device)))
