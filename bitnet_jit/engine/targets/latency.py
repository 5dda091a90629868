"""The latency of single calls: P99 at batch 1 of a packed model of 2^20 parameters, through `engine.infer`."""

from typing import TYPE_CHECKING

from bitnet_jit.engine.targets.figures import Latencies
from bitnet_jit.engine.targets.layers import random_layer, random_rows
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.tensors.benchmark import WARMUP_CALLS, seconds_of

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

FEATURES = 1024
LIMIT = 1.0  # milliseconds
MODEL = "1 M parameters"


def measure_latency(engine: "InferenceEngine", device: str, iterations: int) -> tuple[Target, Latencies]:
    """Measure single calls; return the target, and the time of every call."""
    if MODEL not in engine.models:
        engine.add_model(MODEL, random_layer(FEATURES, FEATURES, device))
    x = random_rows(1, FEATURES, device)
    calls = WARMUP_CALLS + iterations
    milliseconds = [1e3 * seconds_of(lambda: engine.infer(MODEL, x)) for _ in range(calls)]
    latencies = Latencies(tuple(sorted(milliseconds[WARMUP_CALLS:])))
    how = f"P99 of {iterations} calls of engine.infer, one row, {FEATURES} -> {FEATURES}"
    return Target("latency", LIMIT, "ms", False, latencies.quantile(0.99), how), latencies
