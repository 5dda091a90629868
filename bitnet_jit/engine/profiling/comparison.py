"""`Comparison`: the same work done in several ways, in turns: batch sizes, threads, devices, kernels."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import nn

from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.clock import in_turns
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.profiling.tables import as_table
from bitnet_jit.engine.tensors.benchmark import quantile, wait_for
from bitnet_jit.engine.tensors.infer import infer
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.contenders import agreeing, contenders
from bitnet_jit.tuning.problems import check_memory, device_of, problems_of_model
from bitnet_jit.tuning.synthetic import argument_sets

SECONDS = 0.1  # per contender
KERNEL_SECONDS = 0.01


@dataclass(frozen=True)
class Contestant:
    """One way to do it.

    Attributes:
        name: of the way.
        rows: per call.
        p50_ms, p99_ms: milliseconds per call.
        speed: rows per second, in terms of the first contestant's.
    """

    name: str
    rows: int
    p50_ms: float
    p99_ms: float
    speed: float

    @property
    def rows_per_s(self) -> float:
        """Return the rows per second, by the median call."""
        return 1e3 * self.rows / self.p50_ms


@dataclass(frozen=True)
class Comparison:
    """All ways, in the order in which they were given.

    Attributes:
        title: what was done.
    """

    title: str
    ways: tuple[Contestant, ...]

    @property
    def best(self) -> Contestant:
        """Return the way with the most rows per second."""
        return max(self.ways, key=lambda way: way.rows_per_s)

    def display(self) -> str:
        """Return the ways as a table in plain text; the best one is marked."""
        rows = [
            [
                f"{way.name} *" if way is self.best else way.name,
                f"{way.p50_ms:.4f}",
                f"{way.p99_ms:.4f}",
                f"{way.rows_per_s:,.0f}",
                f"{way.speed:.2f}x",
            ]
            for way in self.ways
        ]
        return as_table(self.title, ["", "P50 ms", "P99 ms", "rows per s", "speed"], rows, "* most rows per second")


def compare(
    title: str, names: Sequence[str], rows: Sequence[int], microseconds: Sequence[Sequence[float]]
) -> Comparison:
    """Return a comparison of ways by the microseconds of their calls."""
    medians = [median(times) for times in microseconds]
    first = rows[0] / medians[0]
    ways = [
        Contestant(name, count, middle / 1e3, quantile(sorted(times), 0.99) / 1e3, count / middle / first)
        for name, count, middle, times in zip(names, rows, medians, microseconds, strict=True)
    ]
    return Comparison(title, tuple(ways))


def sweep_sizes(module: nn.Module, x: torch.Tensor, sizes: Sequence[int], memory: EngineMemory) -> Comparison:
    """Return what batches of each size take; `x` (rows, ...) is repeated until it has so many rows."""
    batches = [x.repeat(-(-size // len(x)), *[1] * (x.dim() - 1))[:size] for size in sizes]
    calls = [partial(call, module, batch, memory) for batch in batches]
    for run in calls:
        run()
    names = [f"{size} rows" for size in sizes]
    return compare("batch sizes", names, sizes, in_turns(calls, SECONDS))


def compare_threads(module: nn.Module, x: torch.Tensor, numbers: Sequence[int], memory: EngineMemory) -> Comparison:
    """Return what a call takes with each number of CPU threads, of our kernels and of torch."""

    def run(number: int) -> None:
        with threads(number):
            call(module, x, memory)

    names = [f"{number} thread{'s' if number > 1 else ''}" for number in numbers]
    times = [in_turns([partial(run, number)], SECONDS)[0] for number in numbers]  # teams of threads take time to change
    return compare("CPU threads", names, [len(x)] * len(numbers), times)


def compare_devices(module: nn.Module, x: torch.Tensor, devices: Sequence[str], memory: EngineMemory) -> Comparison:
    """Return what a call takes on each device, the inputs' and results' ways to it and back included."""
    calls: list[Callable[[], None]] = []
    for device in devices:
        there = copy.deepcopy(module).to(check_device(device))
        calls.append(partial(call, there, x, memory))
        calls[-1]()
    return compare("devices", devices, [len(x)] * len(calls), in_turns(calls, SECONDS))


def compare_kernels(model: nn.Module, rows: int) -> tuple[Comparison, ...]:
    """Return, for each op of a pass of a model, what every kernel takes that the registry has for it.

    Raises:
        InvalidInput: the model has no packed layer, or its layers are on several devices.
    """
    problems, device = list(problems_of_model(model, (rows,))), device_of(model)
    check_memory(problems, device)
    return tuple(kernels_of(problem, device) for problem in problems)


def kernels_of(problem: Problem, device: torch.device) -> Comparison:
    """Return what each kernel takes for a problem, with its first config; those that answer otherwise are left out."""
    kind = kind_of(device)
    first = {contender.kernel.name: contender for contender in reversed(contenders(problem, wide=True))}
    with kind.current(device), torch.no_grad():
        sets = argument_sets(problem, device)
        able = agreeing(problem, list(reversed(first.values())), sets[0], device)
        calls = [one.call for one in able if one.call is not None]
        times = kind.measure(calls, sets)(range(len(calls)), KERNEL_SECONDS)
    return compare(str(problem), [one.kernel.name for one in able], [problem.rows] * len(calls), times)


def call(module: nn.Module, x: torch.Tensor, memory: EngineMemory) -> None:
    """Run a module on a tensor, and wait for the result."""
    wait_for(infer(module, x, memory=memory))


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Have our kernels and torch use so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with THREADS.using(number):
            yield
    finally:
        torch.set_num_threads(before)
