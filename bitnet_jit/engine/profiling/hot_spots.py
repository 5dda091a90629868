"""`HotSpots`: where the time of a model goes: by its modules, or by the ops of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.profiling.tables import as_table
from bitnet_jit.engine.tensors.infer import device_of, infer
from bitnet_jit.ops.calls import DISPATCHER
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.contenders import Contender, bind
from bitnet_jit.tuning.problems import check_memory, problems_of_model
from bitnet_jit.tuning.problems import device_of as device_of_layers
from bitnet_jit.tuning.synthetic import argument_sets

SECONDS = 0.01  # for which the calls of an op are timed


@dataclass(frozen=True)
class HotSpot:
    """A part of a model.

    Attributes:
        name: of the module within the model, "" for the model itself; or of the op and its sizes.
        kind: the module's class, or the kernel that runs the op.
        calls: per call of the model.
        milliseconds: per call of the model, without the modules inside it.
        share: of the time of all parts, 0 to 1.
    """

    name: str
    kind: str
    calls: float
    milliseconds: float
    share: float


@dataclass(frozen=True)
class HotSpots:
    """All parts of a model, the one that takes the most time first.

    Attributes:
        total_ms: of all parts, per call of the model.
    """

    parts: tuple[HotSpot, ...]
    total_ms: float

    def display(self, most: int = 20) -> str:
        """Return the first parts as a table in plain text."""
        rows = [
            [part.name or "(itself)", part.kind, f"{part.calls:g}", f"{part.milliseconds:.4f}", f"{part.share:.1%}"]
            for part in self.parts[:most]
        ]
        left = len(self.parts) - len(rows)
        note = f"and {left} more" if left else ""
        title = f"hot spots: {self.total_ms:.3f} ms per call"
        return as_table(title, ["part", "kind", "calls", "ms", "share"], rows, note)


@dataclass
class Stopwatch:
    """The time of modules without those inside them.

    Attributes:
        seconds, calls: per module.
    """

    synchronize: Any
    seconds: dict[nn.Module, float] = field(default_factory=dict)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    _running: list[list[float]] = field(default_factory=list)  # of each open call: when it began, seconds inside it

    def begin(self, _module: nn.Module, _inputs: Any) -> None:
        """Note that a module is called."""
        self.synchronize()
        self._running.append([time.perf_counter(), 0.0])

    def end(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        """Note that the module called last has returned."""
        self.synchronize()
        start, inside = self._running.pop()
        whole = time.perf_counter() - start
        self.seconds[module] = self.seconds.get(module, 0.0) + whole - inside
        self.calls[module] = self.calls.get(module, 0) + 1
        if self._running:
            self._running[-1][1] += whole


@contextmanager
def hooked(model: nn.Module, watch: Stopwatch) -> Iterator[None]:
    """Have a stopwatch told of the calls of all modules of a model."""
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(watch.begin))
        handles.append(module.register_forward_hook(watch.end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hot_modules(model: nn.Module, x: torch.Tensor, calls: int, memory: EngineMemory) -> HotSpots:
    """Return the modules of a model by the time that they take, each without the modules inside it.

    Hooks add 1 to 2 us per module and call, and on a GPU each module is waited for: shares are right, sums too large.
    No other thread may call the model meanwhile.
    """
    names = {module: name for name, module in model.named_modules()}
    device = device_of(model) or x.device
    watch = Stopwatch(kind_of(device).synchronize)
    infer(model, x, memory=memory)
    with kind_of(device).current(device), hooked(model, watch):
        for _ in range(calls):
            infer(model, x, memory=memory)
    rows = [
        (names[module], type(module).__name__, watch.calls[module] / calls, 1e3 * seconds / calls)
        for module, seconds in watch.seconds.items()
    ]
    return in_order(rows)


def hot_ops(model: nn.Module, rows: int) -> HotSpots:
    """Return the ops of one pass of a decoder, or of a model with packed layers, by the time that they take.

    Each op is timed by itself with the kernel that is chosen for it, on synthetic tensors whose weights are not in the
    caches, and counted as often as a pass calls it. What torch computes between them is not seen.

    Raises:
        InvalidInput: the model has no packed layer, or its layers are on several devices.
    """
    problems = problems_of_model(model, (rows,))
    device = device_of_layers(model)
    check_memory(problems, device)
    parts = []
    for problem, calls in problems.items():
        choice = DISPATCHER.choose(problem)
        microseconds = time_of(problem, Contender(choice.kernel, choice.config), device)
        parts.append((str(problem), choice.kernel.name, float(calls), calls * microseconds / 1e3))
    return in_order(parts)


def time_of(problem: Problem, contender: Contender, device: torch.device) -> float:
    """Return the microseconds per call of a kernel: the median."""
    with kind_of(device).current(device), torch.no_grad():
        sets = argument_sets(problem, device)
        call = bind(problem, contender, device).call
        assert call is not None
        (times,) = kind_of(device).measure([call], sets)([0], SECONDS)
    return median(times)


def in_order(rows: list[tuple[str, str, float, float]]) -> HotSpots:
    """Return parts with their shares, the largest first."""
    total = sum(milliseconds for *_, milliseconds in rows)
    parts = [HotSpot(*row, share=row[3] / total if total else 0.0) for row in rows]
    return HotSpots(tuple(sorted(parts, key=lambda part: -part.milliseconds)), total)
