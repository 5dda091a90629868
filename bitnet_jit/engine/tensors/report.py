"""`BenchmarkResults`: what a benchmark of an engine measured, as numbers, a table, and a grade."""

from collections.abc import Sequence
from dataclasses import dataclass

Steps = Sequence[tuple[float, int]]  # limits and the points that they give, the best first

ROWS_PER_S: Steps = ((300_000, 100), (200_000, 75), (100_000, 50), (50_000, 25))
LATENCY_MS: Steps = ((1, 100), (2, 75), (5, 50), (10, 25))
MEMORY_MB: Steps = ((50, 100), (100, 75), (200, 50), (500, 25))
BATCH_SPEEDUP: Steps = ((4, 100), (2, 75), (1.5, 50), (1, 25))
WEIGHTS = (40, 40, 15, 5)  # per cent, in that order
GRADES = ((95, "A+"), (85, "A"), (70, "B"), (50, "C"), (0, "D"))


@dataclass(frozen=True)
class BenchmarkResults:
    """The figures of one benchmark.

    Attributes:
        device: where the model runs.
        iterations: calls that were timed, those that warmed up not counted.
        warmup_s: seconds until calls took no longer than usual: compiling and choosing kernels.
        p50_ms, p95_ms, p99_ms, mean_ms: latency of one call.
        rows_per_s: rows per second in batches; each row is one inference.
        single_rows_per_s: rows per second in calls one by one.
        memory_mb: what the process grew by meanwhile, in 10^6 bytes; None where the system does not tell.
    """

    device: str
    iterations: int
    warmup_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    rows_per_s: float
    single_rows_per_s: float
    memory_mb: float | None

    @property
    def batch_speedup(self) -> float:
        """Return how many times as many rows per second batches reach as single calls."""
        return self.rows_per_s / self.single_rows_per_s

    @property
    def score(self) -> float:
        """Return 0 to 100: rows per second 40 %, P99 latency 40 %, memory 15 %, batches 5 %."""
        points = (
            at_least(self.rows_per_s, ROWS_PER_S),
            at_most(self.p99_ms, LATENCY_MS),
            100 if self.memory_mb is None else at_most(self.memory_mb, MEMORY_MB),
            at_least(self.batch_speedup, BATCH_SPEEDUP),
        )
        return sum(weight * value for weight, value in zip(WEIGHTS, points, strict=True)) / 100

    def grade(self) -> str:
        """Return "A+", "A", "B", "C" or "D" by the score.

        >>> BenchmarkResults("cpu", 9, 0.1, 0.2, 0.3, 0.4, 0.2, 4e5, 5e4, 10.0).grade()
        'A+'
        >>> BenchmarkResults("cpu", 9, 0.1, 3.0, 3.0, 4.0, 3.0, 2e5, 1e5, 150.0).grade()
        'C'
        """
        return next(grade for least, grade in GRADES if self.score >= least)

    def meets_targets(self, rows_per_s: float, p99_ms: float) -> bool:
        """Return whether it reaches so many rows per second, and 99 of 100 calls take no longer than so many ms."""
        return self.rows_per_s >= rows_per_s and self.p99_ms <= p99_ms

    def display(self) -> str:
        """Return the figures as a table in plain text."""
        memory = "not told by this system" if self.memory_mb is None else f"{self.memory_mb:.1f} MB"
        rows = (
            ("device", self.device),
            ("latency P50 / P95 / P99", f"{self.p50_ms:.3f} / {self.p95_ms:.3f} / {self.p99_ms:.3f} ms"),
            ("calls timed, mean", f"{self.iterations}, {self.mean_ms:.3f} ms"),
            ("warm-up", f"{self.warmup_s:.2f} s"),
            ("rows per second, in batches", f"{self.rows_per_s:,.0f}"),
            ("rows per second, one by one", f"{self.single_rows_per_s:,.0f}"),
            ("memory grown by", memory),
            ("grade", f"{self.grade()} ({self.score:.0f} of 100)"),
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def at_least(value: float, steps: Steps) -> int:
    """Return the points of the first limit that a value reaches."""
    return next((points for limit, points in steps if value >= limit), 0)


def at_most(value: float, steps: Steps) -> int:
    """Return the points of the first limit that a value does not pass."""
    return next((points for limit, points in steps if value <= limit), 0)
