"""Timing whole models in turns: contenders take them one after the other, with the limits of the machine between.

A turn of a contender is some steps of one text that goes on through all turns, so that a prompt of thousands of tokens
is read once per contender. What counts is the least of the turns: a busy neighbour makes a turn longer, never shorter.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from benchmarks.harness import limits
from benchmarks.harness.contender import Contender
from benchmarks.harness.models.bounds import Rates, Storage
from benchmarks.harness.peaks import peaks
from benchmarks.harness.timing import SETTLE_SECONDS

LIMIT_BYTES = 1 << 29  # of the buffer that limits read, more than caches hold
GPU_CALLS = 8  # of a limit per measurement: a launch costs as much as a tenth of it


class Model(Protocol):
    """A contender for whole models.

    Attributes:
        name: as in --contenders.
        storage: how it holds weights, head and cache.
    """

    name: str
    storage: Storage

    def set_threads(self, threads: int) -> None:
        """Have the next calls run on so many CPU threads."""
        ...

    def read(self, ids: torch.Tensor) -> None:
        """Read prompts (B, T) and choose the first token of each; return when it is known."""
        ...

    def begin(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        """Read prompts (B, T); return a function that writes so many tokens per text, and gives the seconds of each.

        The text goes on from call to call, up to `most_steps` tokens in all.
        """
        ...

    def outside_share(self, write: Callable[[int], float], steps: int, step_seconds: float) -> float | None:
        """Return the share of a step outside of memory-bound kernels; None where nobody can see them.

        Args:
            write: of the last `begin`.
            steps: that may be profiled.
            step_seconds: of a step that is not.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


@dataclass(frozen=True)
class Timed:
    """Work that is timed in turns.

    Attributes:
        run: does a turn of it; returns the seconds of a step.
        set_threads: sets the number of CPU threads of the next turns.
    """

    name: str
    run: Callable[[], float]
    set_threads: Callable[[int], None]


@dataclass(frozen=True)
class Seconds:
    """The seconds of a step, turn by turn."""

    turns: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.turns)

    @property
    def median(self) -> float:
        return float(np.median(self.turns))


def seconds_of(function: Callable[[], object]) -> float:
    """Return the time that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def take_turns(
    everyone: Sequence[Timed], threads: int, turns: int, tell: Callable[[str], object] = lambda name: None
) -> dict[str, Seconds]:
    """Time all, round robin; `tell` is called with a name before its turn."""
    times: dict[str, list[float]] = {timed.name: [] for timed in everyone}
    for _ in range(turns):
        for timed in everyone:
            tell(timed.name)
            time.sleep(SETTLE_SECONDS)  # a pool of threads spins for a while after its last job
            timed.set_threads(threads)
            times[timed.name].append(timed.run())
    return {name: Seconds(tuple(seconds)) for name, seconds in times.items()}


class Limits:
    """The limits of a device, made once and timed beside the contenders of every case.

    Reads of a CPU go over plain memory and over huge pages, which models may have, too: the faster one is the limit.

    Args:
        device: in torch's words.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._readers: list[Contender] = []
        self._peaks: dict[int, list[Contender]] = {}
        if device == "cpu":
            plain = torch.ones(LIMIT_BYTES // 8, dtype=torch.int64).numpy()
            huge = np.ones(LIMIT_BYTES // 8, np.int64)  # NumPy asks the system for huge pages
            piece = 2 * limits.CALL_BYTES
            self._readers = [*limits.readers_of(plain, piece), *limits.readers_of(huge, piece, ", huge pages")]

    def contenders(self, threads: int) -> list[Contender]:
        """Return reads of memory and products, for so many CPU threads."""
        if self.device == "cpu":
            if threads not in self._peaks:
                self._peaks[threads] = peaks(threads)
            return [*self._readers, *self._peaks[threads]]
        from benchmarks.harness import gpu

        return gpu.limits(self.device) if torch.device(self.device).type == "cuda" else []

    def timed(self, threads: int) -> list[Timed]:
        """Return the limits as work for `take_turns`."""
        return [Timed(limit.name, self._turn(limit), limit.set_threads) for limit in self.contenders(threads)]

    def _turn(self, limit: Contender) -> Callable[[], float]:
        calls, synchronize = (1, lambda: None) if self.device == "cpu" else (GPU_CALLS, torch.accelerator.synchronize)

        def run() -> float:
            limit.run(0)
            synchronize()

            def again() -> None:
                for number in range(1, 1 + calls):
                    limit.run(number)
                synchronize()

            return seconds_of(again) / calls

        return run

    def rates(self, threads: int, times: dict[str, Seconds]) -> Rates:
        """Return the best rates of the limits among `times`; 0 where there was none."""
        read = peak = 0.0
        for limit in self.contenders(threads):
            read = max(read, limit.num_bytes / times[limit.name].least if not limit.num_ops else 0.0)
            peak = max(peak, limit.num_ops / times[limit.name].least)
        return Rates(read, peak)
