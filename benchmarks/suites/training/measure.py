"""Times of training steps: every contender in every way to run, checked first, then timed in turns.

A way to run is eager, compiled (torch.compile), reduced (its mode "reduce-overhead"), or graph: compiled, then a CUDA
graph of the step.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.harness import gpu
from benchmarks.suites.training.block import BlockWork, Make, Step, peers
from bitnet_jit.devices import graphs

TURNS = 15  # on a CPU, of one step each
GPU_TURNS = 5
SETTLED_SECONDS = 0.3  # of a turn on a GPU, not counted: its power is watched and its clock set within that
STEPS = 4  # to learn how long one takes, and while the clock is asked for
MODES = {"eager": None, "compiled": "default", "reduced": "reduce-overhead", "graph": "default"}  # of torch.compile
WAYS = tuple(MODES)
GRAPHS = ("reduced", "graph")  # on GPUs
WAITING = ("onebitllms",)  # for the GPU in every forward, which no graph can hold
Run = Callable[[], object]


@dataclass(frozen=True)
class LayerRow:
    """One kind of layer in one way.

    Attributes:
        weights: dtype of the parameters; activations are bfloat16.
        error: the largest of a result relative to its norm.
        memory_bytes: the most that a step takes beside what is there before; None on a CPU.
        clock_mhz: of the multiprocessors at the end of a turn, the median; None where nothing tells it.
        failed: why there are no figures, or "".
    """

    layer: str
    weights: str
    way: str
    error: float | None = None
    memory_bytes: int | None = None
    median_us: float | None = None
    min_us: float | None = None
    clock_mhz: int | None = None
    failed: str = ""


def layer_rows(
    work: BlockWork, weight_dtype: torch.dtype, ways: Sequence[str], seconds: float, say: Callable[[str], object]
) -> list[LayerRow]:
    """Check every contender in every way, time them in turns, and return their rows."""
    steps: dict[tuple[str, str], Run] = {}
    rows: dict[tuple[str, str], LayerRow] = {}
    weights = str(weight_dtype).removeprefix("torch.")
    for name, make in peers(work.device).items():
        for way in ways:
            if way in GRAPHS and name in WAITING:
                continue
            key = name, way
            try:
                steps[key], rows[key] = checked(work, name, make, weight_dtype, way)
            except Exception as error:  # a peer's way to fail is a figure, too
                failed = (str(error).splitlines() or [type(error).__name__])[0][:100]
                rows[key] = LayerRow(name, weights, way, failed=failed)
            say(f"{weights} weights, {name}, {way}: {rows[key].failed or 'right'}")
    for key, times in in_turns(steps, work.device, seconds).items():
        rows[key] = LayerRow(**asdict(rows[key]) | times)
    return list(rows.values())


def checked(work: BlockWork, name: str, make: Make, weight_dtype: torch.dtype, way: str) -> tuple[Run, LayerRow]:
    """Return a contender's step, whose results are right, and its row without times."""
    step = work.step(make, weight_dtype, MODES[way])
    error = work.check(step(), name != "nn.Linear", weight_dtype)
    memory = memory_of(step, work.device)
    row = LayerRow(name, str(weight_dtype).removeprefix("torch."), way, round(error, 5), memory)
    return in_a_graph(step) if way == "graph" else step, row


def memory_of(step: Step, device: str) -> int | None:
    """Return the most bytes that a step needs beside what is there before; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def in_a_graph(step: Run) -> Run:
    """Capture the step, which has run before, as a CUDA graph of it alone: a replay is timed as one step."""
    replay: Run = graphs.capture(lambda _: step(), copies=1, calls=1).graph.replay
    return replay


def in_turns(steps: dict[Any, Run], device: str, seconds: float) -> dict[Any, dict[str, Any]]:
    """Time all steps, in another order in each turn; return times and clocks as fields of a LayerRow."""
    turns = [
        key
        for turn in range(TURNS if device == "cpu" else GPU_TURNS)
        for key in random.Random(turn).sample(list(steps), len(steps))
    ]
    times: dict[Any, list[float]] = {key: [] for key in steps}
    clocks: dict[Any, list[int]] = {key: [] for key in steps}
    for key in track(turns, "timing", console=Console(stderr=True)):
        microseconds, clock = on_cpu(steps[key]) if device == "cpu" else settled(steps[key], seconds)
        times[key] += microseconds
        clocks[key] += [clock] if clock else []
    return {
        key: {
            "median_us": round(median(microseconds), 1),
            "min_us": round(min(microseconds), 1),
            "clock_mhz": round(median(clocks[key])) if clocks[key] else None,
        }
        for key, microseconds in times.items()
    }


def on_cpu(step: Run) -> tuple[list[float], None]:
    """Return the microseconds of one step that follows another one, and no clock."""
    step()
    start = time.perf_counter()
    step()
    return [1e6 * (time.perf_counter() - start)], None


def settled(step: Run, seconds: float) -> tuple[list[float], int | None]:
    """Return the microseconds of each step of that many seconds, once the GPU's clock has settled, and that clock."""
    each = median(graphs.timed(step, STEPS)) / 1e6
    graphs.timed(step, round(SETTLED_SECONDS / each))
    times = graphs.timed(step, max(1, round(seconds / each)))
    for _ in range(STEPS):
        step()
    clock = gpu.clock_mhz()
    torch.cuda.synchronize()
    return times, clock
