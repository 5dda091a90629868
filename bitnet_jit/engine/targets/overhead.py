"""What the engine adds to a call, against calling the layer itself: to a single row, and to a full batch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from bitnet_jit.devices.clock import in_turns
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.targets.layers import random_layer, random_rows
from bitnet_jit.engine.targets.target import Target

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

FEATURES = 768
SINGLE_LIMIT, BATCH_LIMIT = 15.0, 3.0  # microseconds; per cent
TENSORS, ROWS = 4, 256  # of a full batch
MODEL = "overhead"


def measure_overhead(engine: "InferenceEngine", device: str, seconds: float) -> tuple[Target, Target]:
    """Measure both ways in turn, by their fastest calls; return what a single call takes longer, and a full batch.

    Args:
        engine: gets a layer of its own.
        device: torch's word for where to run.
        seconds: for each way.
    """
    layer = random_layer(FEATURES, FEATURES, device)
    engine.add_model(MODEL, layer)
    one, many = random_rows(1, FEATURES, device), [random_rows(ROWS, FEATURES, device) for _ in range(TENSORS)]
    direct, engines = least((lambda: layer(one), lambda: engine.infer(MODEL, one)), torch.device(device), seconds)
    alone, together = least(
        (lambda: [layer(x) for x in many], lambda: engine.infer_batch(MODEL, many)), torch.device(device), seconds
    )
    how = f"engine.infer {engines:.1f} us, the layer {direct:.1f} us; one row, {FEATURES} -> {FEATURES}"
    single = Target("added per call", SINGLE_LIMIT, "us", False, max(0.0, engines - direct), how)
    how = f"engine.infer_batch {together:.0f} us, the layer {alone:.0f} us; {TENSORS} inputs of {ROWS} rows"
    return single, Target("added per batch", BATCH_LIMIT, "%", False, max(0.0, 100 * (together / alone - 1)), how)


def least(ways: tuple[Callable[[], object], ...], device: torch.device, seconds: float) -> list[float]:
    """Return the least microseconds of calls that take turns, each waited for."""
    finish = kind_of(device).synchronize

    def waited(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: (call(), finish())

    with torch.inference_mode():
        return [min(times) for times in in_turns([waited(way) for way in ways], seconds)]
