"""Rows per second: single rows through a 768 -> 768 packed layer, many to a call of `infer_batch`."""

from typing import TYPE_CHECKING

from bitnet_jit.engine.targets.layers import random_layer, random_rows
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.tensors.report import BenchmarkResults

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

FEATURES = 768
LIMIT = 300_000.0  # rows per second
MODEL = "768 -> 768"


def measure_throughput(engine: "InferenceEngine", device: str, iterations: int) -> tuple[Target, BenchmarkResults]:
    """Measure rows per second; return the target, and all figures of that benchmark."""
    if MODEL not in engine.models:
        engine.add_model(MODEL, random_layer(FEATURES, FEATURES, device))
    results = engine.benchmark(MODEL, random_rows(1, FEATURES, device), iterations)
    how = f"inputs of one row, {FEATURES} -> {FEATURES}, through engine.infer_batch; the fastest call"
    return Target("throughput", LIMIT, "rows/s", True, results.rows_per_s, how), results
