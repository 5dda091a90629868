"""`PhaseProfile`: time and memory of loading a model, warming it up, and running it."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bitnet_jit.engine.profiling.tables import as_table
from bitnet_jit.engine.tensors.memory_used import peak_bytes, resident_bytes

CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@dataclass(frozen=True)
class Phase:
    """What one phase took.

    Attributes:
        name: "load", "warm-up" or "run".
        seconds: how long it took.
        grown_mb: what the process holds more, or less, behind it, in 10^6 bytes; None where the system does not tell.
        peak_mb: what it held more meanwhile, at most; None likewise.
        device_peak_mb: of the device's memory, all that torch held at most; None on the CPU.
    """

    name: str
    seconds: float
    grown_mb: float | None
    peak_mb: float | None
    device_peak_mb: float | None = None


@dataclass(frozen=True)
class PhaseProfile:
    """The phases of a model, in order."""

    phases: tuple[Phase, ...]

    def __getitem__(self, name: str) -> Phase:
        """Return a phase by its name. Raises KeyError where there is none."""
        return {phase.name: phase for phase in self.phases}[name]

    def display(self) -> str:
        """Return the phases as a table in plain text."""
        headings = ["phase", "seconds", "grown by MB", "peak MB", "device peak MB"]
        rows = [
            [one.name, f"{one.seconds:.3f}", *map(in_mb, (one.grown_mb, one.peak_mb, one.device_peak_mb))]
            for one in self.phases
        ]
        return as_table("time and memory by phase", headings, rows)


class PhaseClock:
    """Measures phases, one after another.

    Attributes:
        phases: those that have ended.
    """

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str, device: Callable[[], torch.device]) -> Iterator[None]:
        """Measure what the block does. `device` is asked behind it: a model that is being loaded has none before."""
        gc.collect()
        before = resident_bytes()
        has_peak = reset_peak()
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        peak = peak_bytes() if has_peak else None
        grown, most = (
            None if value is None or before is None else (value - before) / 1e6 for value in (resident_bytes(), peak)
        )
        self.phases.append(Phase(name, seconds, grown, most, device_peak_mb(device())))


def reset_peak() -> bool:
    """Have the system note anew how much memory this process holds at most; return whether it does."""
    with suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)
        return True
    return False


def device_peak_mb(device: torch.device) -> float | None:
    """Return what torch held of a device at most since it was last asked, in 10^6 bytes; None where it has no count."""
    count = getattr(torch, device.type, None)
    peak, reset = (getattr(count, name, None) for name in ("max_memory_allocated", "reset_peak_memory_stats"))
    if peak is None or reset is None:
        return None
    num_bytes = float(peak(device))
    reset(device)
    return num_bytes / 1e6


def in_mb(value: float | None) -> str:
    """Return a number of 10^6 bytes as text."""
    return "-" if value is None else f"{value:.1f}"
