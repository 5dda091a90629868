"""A task of a worker pool: its tensor, its future, and the one way in which it ends."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import nn

STAGES = ("waiting", "running", "completed", "failed", "timed_out", "cancelled")
OPEN = STAGES[:2]


@dataclass(frozen=True)
class WorkerStats:
    """What one worker has done: tasks, and the seconds that it worked on them."""

    tasks: int
    seconds: float


@dataclass(frozen=True)
class PoolStats:
    """The tasks of a processor. Every accepted one is in exactly one of the first six numbers.

    Attributes:
        waiting, running: tasks in the queue, and at a worker.
        completed, failed, timed_out, cancelled: tasks that have ended, by how they did.
        workers: what each worker has done.
    """

    waiting: int
    running: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    workers: tuple[WorkerStats, ...]

    @property
    def accepted(self) -> int:
        """Return the number of tasks that were accepted so far."""
        return self.waiting + self.running + self.completed + self.failed + self.timed_out + self.cancelled


@dataclass(eq=False)
class Worker:
    """A module and what was done with it. One thread at a time has it."""

    module: nn.Module
    tasks: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Task:
    """A tensor, and where its output goes.

    Attributes:
        x: the tensor.
        future: of the output; it refers to no task, so that both are freed with their last users.
        stage: one of STAGES.
        forget_deadline: tells the clock that the task has ended.
    """

    x: torch.Tensor
    future: "Future[torch.Tensor]" = field(default_factory=Future)
    stage: str = "waiting"
    forget_deadline: Callable[[], None] | None = None


class Counts:
    """How many tasks are in each stage; a task changes its stage here, and ends once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = dict.fromkeys(STAGES, 0)

    def accept(self) -> None:
        """Count a task that begins to wait."""
        with self._lock:
            self._counts["waiting"] += 1

    def refuse(self) -> None:
        """Count a task no more that no worker will take."""
        with self._lock:
            self._counts["waiting"] -= 1

    def move(self, task: Task, stage: str) -> bool:
        """Change the stage of a task. Return False where it has ended already, which nothing changes."""
        with self._lock:
            if task.stage not in OPEN:
                return False
            self._counts[task.stage] -= 1
            self._counts[stage] += 1
            task.stage = stage
        if stage not in OPEN and task.forget_deadline is not None:
            task.forget_deadline()
        return True

    def end(self, task: Task, stage: str, outcome: torch.Tensor | BaseException) -> None:
        """End a task, unless it has ended, and tell who waits for it; outside the lock, as that calls functions."""
        if not self.move(task, stage):
            return
        with suppress(InvalidStateError):  # it has been cancelled since the line before
            if isinstance(outcome, torch.Tensor):
                task.future.set_result(outcome)
            else:
                task.future.set_exception(outcome)

    def stats(self, workers: tuple[WorkerStats, ...]) -> PoolStats:
        """Return all numbers, of one moment."""
        with self._lock:
            waiting, running, completed, failed, timed_out, cancelled = (self._counts[stage] for stage in STAGES)
        return PoolStats(waiting, running, completed, failed, timed_out, cancelled, workers)
