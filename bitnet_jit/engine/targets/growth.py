"""Memory over many calls: what a process has grown by, when an engine has been called again and again."""

from typing import TYPE_CHECKING

from bitnet_jit.engine.targets.layers import random_layer, random_rows
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.tensors.benchmark import wait_for
from bitnet_jit.engine.tensors.memory_used import resident_bytes

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

FEATURES = 256
LIMIT = 1.0  # 10^6 bytes: what a heap's order leaves; ten bytes per call of 100,000
CALLS = 100_000
MODEL = "growth"


def measure_growth(engine: "InferenceEngine", device: str, calls: int = CALLS) -> Target:
    """Call a layer of its own many times, after a tenth of them; return what resident memory has grown by."""
    engine.add_model(MODEL, random_layer(FEATURES, FEATURES, device))
    x = random_rows(1, FEATURES, device)

    def call(count: int) -> None:
        for _ in range(count):
            wait_for(engine.infer(MODEL, x))

    call(max(1, calls // 10))
    before = resident_bytes()
    call(calls)
    after = resident_bytes()
    grown = None if before is None or after is None else max(0, after - before) / 1e6
    return Target("growth", LIMIT, "MB", False, grown, f"resident memory over {calls:,} calls of engine.infer")
