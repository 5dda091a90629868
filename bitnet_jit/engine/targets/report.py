"""`EngineReport`: all targets with their figures, the grade, and what the pictures show."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from bitnet_jit.engine.targets.figures import Latencies, Point
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.tensors.report import BenchmarkResults

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class EngineReport:
    """The figures of one run.

    Attributes:
        device: where it ran.
        threads: of the CPU.
        targets: in order.
        results: of the benchmark of the 768 -> 768 layer.
        latencies: of single calls of the model of 1 M parameters.
        rows: rows per second by callers.
        tokens: tokens per second by texts at a time.
        text_model: whose texts.
    """

    device: str
    threads: int
    targets: tuple[Target, ...]
    results: BenchmarkResults
    latencies: Latencies
    rows: tuple[Point, ...]
    tokens: tuple[Point, ...]
    text_model: str

    @property
    def graded(self) -> BenchmarkResults:
        """Return the figures that are graded: rows per second, P99 and memory as the targets define them."""
        return replace(
            self.results, p99_ms=self.latencies.quantile(0.99), memory_mb=self.figure("memory"), device=self.device
        )

    @property
    def are_met(self) -> bool:
        """Return whether no target is missed; what this machine does not tell is none."""
        return all(target.is_met is not False for target in self.targets)

    def figure(self, name: str) -> float | None:
        """Return the figure of a target by its name; None where there is none."""
        return next((target.measured for target in self.targets if target.name == name), None)

    def percentiles(self) -> dict[float, float]:
        """Return the milliseconds of single calls by per cent."""
        return {share: self.latencies.quantile(share / 100) for share in PERCENTILES}

    def fields(self) -> dict[str, Any]:
        """Return all figures as JSON has them."""
        return {
            "device": self.device,
            "threads": self.threads,
            "grade": self.graded.grade(),
            "score": self.graded.score,
            "targets": [
                asdict(target) | {"limit_words": target.words, "is_met": target.is_met} for target in self.targets
            ],
            "percentiles_ms": {f"{share:g}": value for share, value in self.percentiles().items()},
            "latencies_ms": list(self.latencies.milliseconds),
            "batch_speedup": self.results.batch_speedup,
            "rows_by_callers": [asdict(point) for point in self.rows],
            "tokens_by_texts": [asdict(point) for point in self.tokens],
            "text_model": self.text_model,
        }
