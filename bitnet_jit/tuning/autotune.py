"""`autotune`: find the fastest kernel and config for every problem of a model once, and keep them on disk."""

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from bitnet_jit.arguments import as_real, as_whole, show, whole_number
from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.kinds import default_type, kind_of
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import recall
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.tuning.compiling import Compilers
from bitnet_jit.tuning.contenders import Contender, contenders
from bitnet_jit.tuning.problems import MAX_ROWS, check_memory, device_of, problems_of_model, problems_of_shapes
from bitnet_jit.tuning.report import Outcome, Report
from bitnet_jit.tuning.search import EFFORTS
from bitnet_jit.tuning.tune import tune
from bitnet_jit.tuning.work import work_of

logger = logging.getLogger(__name__)

ROWS = tuple(2**exponent for exponent in range(12))
Shapes = Sequence[tuple[int, int]]


class Advance(Protocol):
    """A function that shows how far the work is."""

    def __call__(self, done: int, total: int, words: str) -> None: ...


def autotune(
    model_or_shapes: nn.Module | Shapes,
    rows: Sequence[int] = ROWS,
    device: torch.device | str | None = None,
    budget_seconds: float | None = None,
    effort: str = "quick",
    progress: bool = True,
) -> Report:
    """Find the fastest kernel and config for every problem of a model, and keep them for all later processes.

    Kernels are compiled in several processes, then timed in turns on synthetic inputs (in CUDA graphs on a GPU). Each
    choice is written to the user's cache folder (BITNET_JIT_CACHE) at once: after Ctrl-C, or when the budget is spent,
    a second call goes on where this one stopped. One process tunes a kind of device at a time; others wait for it.

    Args:
        model_or_shapes: a module with packed layers; or pairs (out_features, in_features), see `problems_of_shapes`.
        rows: numbers of rows (batch size times tokens) to tune for; each stands for its power of two.
        device: None is where the model is, or for shapes the first GPU, else the CPU.
        budget_seconds: most time to spend. Problems that take most of a model's time come first.
        effort: "quick", or "full" for more time and care on each problem.
        progress: show a bar on stderr.

    Returns:
        The outcomes; print them.

    Raises:
        InvalidInput: an argument that cannot be meant; it is named.

    >>> import bitnet_jit
    >>> report = bitnet_jit.autotune([(64, 128)], rows=(1,), device="cpu", progress=False)
    >>> report.outcomes[0].problem.op
    'bit_linear'
    """
    start = time.monotonic()
    rows, seconds = check_options(rows, budget_seconds, effort)
    place = find_device(model_or_shapes, device)
    problems = by_value(model_or_shapes, rows, place)
    with bar() if progress else nullcontext(silent) as advance:
        outcomes = tune_all(problems, place, start + seconds, effort, advance)
    return Report(tuple(outcomes), time.monotonic() - start)


def by_value(model_or_shapes: nn.Module | Shapes, rows: Sequence[int], device: torch.device) -> list[Problem]:
    """Return the problems, those that take most of a pass first; raise InvalidInput where memory cannot hold one."""
    counts = (
        problems_of_model(model_or_shapes, rows)
        if isinstance(model_or_shapes, nn.Module)
        else problems_of_shapes(model_or_shapes, rows, device)
    )
    check_memory(counts, device)
    return sorted(counts, key=lambda problem: -counts[problem] * work_of(problem).weight)


def check_options(rows: Any, budget_seconds: Any, effort: Any) -> tuple[tuple[int, ...], float]:
    """Return rows and budget as Python's numbers, the budget infinite for None; raise InvalidInput for others."""
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidInput(f"rows: expected whole numbers of at least 1, got {show(rows)}")
    numbers = [as_whole(m) for m in rows]
    if not numbers or any(m is None or m < 1 for m in numbers):
        raise InvalidInput(f"rows: expected whole numbers of at least 1, got {show(rows)}")
    seconds = math.inf if budget_seconds is None else as_real(budget_seconds)
    if seconds is None or not seconds >= 0:
        raise InvalidInput(f"budget_seconds: expected a number of at least 0 or None, got {show(budget_seconds)}")
    if effort not in EFFORTS:
        raise InvalidInput(f"effort: expected one of {', '.join(EFFORTS)}, got {show(effort)}")
    return tuple(whole_number("rows", m, most=MAX_ROWS) for m in numbers), seconds


def find_device(model_or_shapes: Any, device: torch.device | str | None) -> torch.device:
    """Return where to tune. Raises InvalidInput where there is no such device, or the model is on another."""
    wanted = None if device is None else check_device(device, meta=isinstance(model_or_shapes, nn.Module))
    if not isinstance(model_or_shapes, nn.Module):
        return wanted or check_device(torch.device(default_type(), 0))
    place = device_of(model_or_shapes)
    if wanted is not None and (wanted.type, wanted.index or 0) != (place.type, place.index or 0):
        raise InvalidInput(f"device: the model is on {place}, got {wanted}; move one of them")
    return place


def tune_all(
    problems: Sequence[Problem], device: torch.device, deadline: float, effort: str, advance: Advance
) -> list[Outcome]:
    """Tune what is not known, in this order, until the deadline."""
    outcomes: dict[Problem, Outcome] = {}
    advance(0, len(problems), "waiting until no other process tunes")
    with calls.DISPATCHER.cache.locked(lock_name(problems[0]), max(0.0, min(deadline - time.monotonic(), 1e9))) as held:
        known = {problem: tuned for problem in problems if (tuned := known_choice(problem, effort))}
        todo = [problem for problem in problems if problem not in known] if held else []
        with compiling(todo, device, EFFORTS[effort].wide) as ready, forgetting():
            for number, problem in enumerate(todo):
                if time.monotonic() >= deadline:
                    break
                advance(number, len(todo), str(problem))
                tuned = tune(problem, effort, device, ready(problem))
                if tuned is not None:
                    calls.DISPATCHER.cache.store(problem, tuned)
                outcomes[problem] = Outcome(problem, "tuned" if tuned else "undecided", tuned)
            advance(len(outcomes), len(todo), "done")
    outcomes |= {problem: Outcome(problem, "known", tuned) for problem, tuned in known.items()}
    return [outcomes.get(problem, Outcome(problem, "left")) for problem in problems]


@contextmanager
def forgetting() -> Iterator[None]:
    """Have calls chosen anew after the block, however it ends."""
    try:
        yield
    finally:
        calls.forget()


def lock_name(problem: Problem) -> str:
    """Return the name of the lock, one per kind of device."""
    return f"{problem.device_type}-{hashlib.sha256(problem.device.encode()).hexdigest()[:12]}"


def known_choice(problem: Problem, effort: str) -> Tuned | None:
    """Return what was measured for a problem with that effort or more, if it still holds."""
    tuned = calls.DISPATCHER.cache.find(problem)
    order = list(EFFORTS)
    if tuned is None or tuned.effort not in order or order.index(tuned.effort) < order.index(effort):
        return None
    try:
        recall(tuned, problem, registry.candidates(problem)[0])
    except ValueError:
        return None
    return tuned


@contextmanager
def compiling(problems: Sequence[Problem], device: torch.device, wide: bool) -> Iterator[Any]:
    """Yield a function that compiles: problem -> its contenders that can be compiled, once they are.

    For a GPU all is compiled from the beginning, while others are timed; on a CPU nothing may run beside what is timed.
    """
    with Compilers(targets_of(device) if problems else None) as compilers:

        def submit(problem: Problem) -> list[tuple[Contender, "Future[str | None]"]]:
            return [
                (contender, compilers.submit((problem, contender.kernel.name, contender.config)))
                for contender in contenders(problem, wide)
            ]

        ahead = {} if kind_of(device).times_alone else {problem: submit(problem) for problem in problems}

        def ready(problem: Problem) -> list[Contender]:
            jobs = ahead.get(problem) or submit(problem)
            reasons = {contender: job.result() for contender, job in jobs}
            for contender, reason in reasons.items():
                if reason is not None:
                    logger.info("%s cannot be compiled for %s: %s", contender, problem, reason)
            return [contender for contender, reason in reasons.items() if reason is None]

        yield ready


def targets_of(device: torch.device) -> dict[str, Any]:
    """Return what backends that serve a device compile for, by their names."""
    backends = (backend for backend in registry.serving(device.type) if backend.offline is not None)
    targets = {backend.name: backend.offline.target(device) for backend in backends if backend.offline is not None}
    return {name: target for name, target in targets.items() if target is not None}


def silent(done: int, total: int, words: str) -> None:
    """Show nothing."""


@contextmanager
def bar() -> Iterator[Advance]:
    """Show a bar on stderr with the time left; nothing where there is nothing to do."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)

        def advance(done: int, total: int, words: str) -> None:
            shown.update(task, completed=done, total=total, description=words)

        yield advance
