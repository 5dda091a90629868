"""`LatencyProfile`: how long single calls take, and how many rows per second that is."""

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.profiling.tables import as_table
from bitnet_jit.engine.tensors.benchmark import quantile, seconds_of
from bitnet_jit.engine.tensors.infer import infer


@dataclass(frozen=True)
class LatencyProfile:
    """Times of single calls.

    Attributes:
        calls: that were timed.
        rows: of the input of each.
        mean_ms, p50_ms, p95_ms, p99_ms, max_ms: milliseconds per call.
    """

    calls: int
    rows: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def calls_per_s(self) -> float:
        """Return the calls per second, one after another."""
        return 1e3 / self.mean_ms

    @property
    def rows_per_s(self) -> float:
        """Return the rows per second, one call after another."""
        return self.rows * self.calls_per_s

    def display(self) -> str:
        """Return the figures as a table in plain text."""
        times = (self.mean_ms, self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms)
        row = [*(f"{value:.3f}" for value in times), f"{self.rows_per_s:,.0f}"]
        headings = ["mean ms", "P50 ms", "P95 ms", "P99 ms", "max ms", "rows per s"]
        return as_table(f"{self.calls} calls of {self.rows} rows", headings, [row])


def latency_of(seconds: list[float], rows: int) -> LatencyProfile:
    """Return the profile of calls that took so many seconds each.

    >>> latency_of([0.001, 0.003], rows=2).p50_ms, latency_of([0.001, 0.003], rows=2).rows_per_s
    (1.0, 1000.0)
    """
    ordered = sorted(1e3 * value for value in seconds)
    p50, p95, p99 = (quantile(ordered, share) for share in (0.5, 0.95, 0.99))
    return LatencyProfile(len(ordered), rows, fmean(ordered), p50, p95, p99, ordered[-1])


def time_calls(module: nn.Module, x: torch.Tensor, calls: int, memory: EngineMemory) -> list[float]:
    """Return the seconds of each of several calls of `infer`, their results waited for."""
    return [seconds_of(lambda: infer(module, x, memory=memory)) for _ in range(calls)]
