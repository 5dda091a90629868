"""`ParallelInferenceProcessor`: threads that take tensors from one bounded queue and run a module on them.

How workers share the cores: kernels release the GIL, and each call asks for the pool of native threads, which one
caller has at a time. The others compute alone on their own threads, and nobody waits
(`kernels/numba/threads/pool.py`). So there is no lock around calls and no share of the cores per worker. Measured on
two cores, 768 x 768, 16 rows: 21.5 us per call by one worker, 15.7 us by two, 26.3 us by two with a lock; for one
row of 2560 x 2560 a lock made no clear difference.
"""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import torch
from torch import nn

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.tensors.deadlines import Deadlines
from bitnet_jit.engine.tensors.infer import check_module, infer
from bitnet_jit.engine.tensors.slots import Slots
from bitnet_jit.engine.tensors.task import Counts, PoolStats, Task, Worker, WorkerStats
from bitnet_jit.errors import EngineClosed, InvalidInput, RequestTimeout
from bitnet_jit.system.cores import available_cores

MAX_WORKERS = 1024
MAX_CAPACITY = 2**31 - 1
MAX_SECONDS = 3e6  # what threading waits for at most on every system
CLOSED = "the processor has been shut down and takes no more tasks"


class ParallelInferenceProcessor:
    """Runs tensors through a module on several threads. Threads and event loops may use it at the same time.

    A worker takes the next task when it is free, so a slow device or a long task holds up nobody else. Use it as a
    context manager, or call `shutdown`.

    Args:
        module: as in `infer`; or a list of modules, one per worker: replicas on several devices.
        workers: number of threads that share one module; None: as many as there are cores.
        capacity: tasks that may wait; who submits more waits, too.
        memory: through which tensors are moved, such as `InferenceEngine.memory`.

    Raises:
        InvalidInput: an argument is out of range, or does not go with another.

    >>> with ParallelInferenceProcessor(nn.Linear(8, 3), workers=2) as processor:
    ...     future = processor.submit(torch.ones(5, 8))
    ...     shapes = [tuple(y.shape) for y in processor.map([torch.ones(1, 8), torch.ones(2, 8)])]
    >>> tuple(future.result().shape), shapes
    ((5, 3), [(1, 3), (2, 3)])
    """

    def __init__(
        self,
        module: nn.Module | Sequence[nn.Module],
        workers: int | None = None,
        *,
        capacity: int = 100,
        memory: EngineMemory = DEFAULT_MEMORY,
    ) -> None:
        modules = modules_of(module, workers)
        self._memory = memory
        self._slots = Slots(whole_number("capacity", capacity, 1, MAX_CAPACITY))
        self._workers = [Worker(module) for module in modules]
        self._idle: SimpleQueue[Worker] = SimpleQueue()  # never empty for a thread: there are as many of both
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(len(modules), thread_name_prefix="bitnet_jit worker")
        self._deadlines = Deadlines()
        self._counts = Counts()

    def submit(
        self, x: torch.Tensor, *, timeout_s: float | None = None, wait_s: float | None = None
    ) -> "Future[torch.Tensor]":
        """Queue a tensor; wait in this thread while the queue is full.

        Args:
            x: as in `infer`.
            timeout_s: seconds that the task may take from its place in the queue to its end. Then the future raises
                RequestTimeout; a task that waits still is never run, and the output of one that runs is dropped. None:
                any.
            wait_s: seconds to wait for a place in the queue; 0: not at all. None: as long as it takes.

        Returns:
            A future of the output. `cancel()` ends it at any moment before it is done. In an event loop use
            `infer_async`, or `asyncio.wrap_future`.

        Raises:
            InvalidInput: x is no tensor, or a time is no positive number.
            QueueFull: there was no place for `wait_s` seconds.
            EngineClosed: the processor has been shut down.
        """
        task = new_task(x, timeout_s)
        self._slots.acquire(check_seconds("wait_s", wait_s))
        return self._accept(task, timeout_s)

    def infer(self, x: torch.Tensor, *, timeout_s: float | None = None) -> torch.Tensor:
        """Return the output of a tensor; wait in this thread. Arguments and errors as `submit`."""
        return self.submit(x, timeout_s=timeout_s).result()

    async def submit_async(self, x: torch.Tensor, *, timeout_s: float | None = None) -> "Future[torch.Tensor]":
        """Queue a tensor as `submit` does; wait in the event loop while the queue is full."""
        task = new_task(x, timeout_s)
        await self._slots.acquire_async()
        return self._accept(task, timeout_s)

    async def infer_async(self, x: torch.Tensor, *, timeout_s: float | None = None) -> torch.Tensor:
        """Return the output of a tensor; wait in the event loop. A caller that is cancelled cancels its task."""
        return await asyncio.wrap_future(await self.submit_async(x, timeout_s=timeout_s))

    def map(self, xs: Iterable[torch.Tensor], *, timeout_s: float | None = None) -> Iterator[torch.Tensor]:
        """Yield the outputs of tensors in their order; only so many are read ahead as may wait and run.

        An error is raised in its place, and ends the iteration; `submit` keeps errors apart.
        """
        pending: deque[Future[torch.Tensor]] = deque()
        try:
            for x in xs:
                if len(pending) >= self._window():
                    yield pending.popleft().result()
                pending.append(self.submit(x, timeout_s=timeout_s))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    async def map_async(
        self, xs: Iterable[torch.Tensor] | AsyncIterable[torch.Tensor], *, timeout_s: float | None = None
    ) -> AsyncIterator[torch.Tensor]:
        """Yield as `map` does, in an event loop; the tensors may come from an async iterator."""
        pending: deque[Future[torch.Tensor]] = deque()
        try:
            async for x in as_async(xs):
                if len(pending) >= self._window():
                    yield await asyncio.wrap_future(pending.popleft())
                pending.append(await self.submit_async(x, timeout_s=timeout_s))
            while pending:
                yield await asyncio.wrap_future(pending.popleft())
        finally:
            for future in pending:
                future.cancel()

    def stats(self) -> PoolStats:
        """Return how many tasks are where, and what each worker has done."""
        return self._counts.stats(tuple(WorkerStats(worker.tasks, worker.seconds) for worker in self._workers))

    def shutdown(self) -> None:
        """Take no more tasks, and wait in this thread until all accepted ones have ended."""
        self._slots.close(CLOSED)
        self._threads.shutdown()
        self._deadlines.close()

    async def aclose(self) -> None:
        """Take no more tasks, and wait in the event loop until all accepted ones have ended."""
        await asyncio.to_thread(self.shutdown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def _window(self) -> int:
        """Return how many tasks of one caller can wait and run."""
        return self._slots.count + len(self._workers)

    def _accept(self, task: Task, timeout_s: float | None) -> "Future[torch.Tensor]":
        """Hand a task that has a slot over to the threads."""
        self._counts.accept()
        counts, reference = self._counts, weakref.ref(task)  # neither the future nor the clock keeps the tensor

        def on_done(future: "Future[torch.Tensor]") -> None:
            task = reference()
            if future.cancelled():
                future.set_running_or_notify_cancel()  # else `concurrent.futures.wait` would not see it
                if task is not None:
                    counts.move(task, "cancelled")

        def on_deadline() -> None:
            task = reference()
            if task is not None:
                counts.end(task, "timed_out", RequestTimeout(f"the task was {task.stage} after {timeout_s} s"))

        task.future.add_done_callback(on_done)
        if timeout_s is not None:
            task.forget_deadline = self._deadlines.call_in(timeout_s, on_deadline)
        try:
            self._threads.submit(self._run, task)
        except RuntimeError as error:  # shut down, or the interpreter ends
            self._counts.refuse()
            self._slots.release()
            raise EngineClosed(CLOSED) from error
        return task.future

    def _run(self, task: Task) -> None:
        """Run a task on a worker that is idle, unless the task has ended while it waited."""
        self._slots.release()
        if not self._counts.move(task, "running"):
            return
        worker, begin = self._idle.get(), time.perf_counter()
        outcome: torch.Tensor | BaseException
        try:
            outcome = infer(worker.module, task.x, memory=self._memory)
        except BaseException as error:  # a module that calls sys.exit, too, owes an answer
            outcome = error
        worker.tasks, worker.seconds = worker.tasks + 1, worker.seconds + time.perf_counter() - begin
        self._idle.put(worker)
        self._counts.end(task, "completed" if isinstance(outcome, torch.Tensor) else "failed", outcome)


def modules_of(module: nn.Module | Sequence[nn.Module], workers: int | None) -> list[nn.Module]:
    """Return the module of each worker."""
    if isinstance(module, nn.Module):
        number = available_cores() if workers is None else whole_number("workers", workers, 1, MAX_WORKERS, none=True)
        modules = [module] * number
    elif isinstance(module, Sequence) and module and not isinstance(module, str):
        modules = list(module)
        if workers is not None and workers != len(modules):
            raise InvalidInput(f"workers: expected {len(modules)} or None, one per module, got {show(workers)}")
    else:
        raise InvalidInput(f"module: expected a torch.nn.Module or a list of some, got {show(module)}")
    for part in modules[:1] if isinstance(module, nn.Module) else modules:
        check_module(part)
    return modules


def new_task(x: torch.Tensor, timeout_s: float | None) -> Task:
    """Return a task, with its arguments checked."""
    check_seconds("timeout_s", timeout_s)
    if not isinstance(x, torch.Tensor):
        raise InvalidInput(f"x: expected a tensor, got {show(x)}")
    return Task(x)


def check_seconds(name: str, value: float | None) -> float | None:
    """Return a time in seconds, or None. Raises InvalidInput unless it is a number from 0 to a month."""
    seconds = as_real(value)
    if value is not None and not (seconds is not None and 0 <= seconds <= MAX_SECONDS):
        raise InvalidInput(f"{name}: expected seconds, 0 to {MAX_SECONDS:.0e}, or None, got {show(value)}")
    return seconds


async def as_async(xs: Iterable[torch.Tensor] | AsyncIterable[torch.Tensor]) -> AsyncIterator[torch.Tensor]:
    """Yield what either kind of iterable yields."""
    if isinstance(xs, AsyncIterable):
        async for x in xs:
            yield x
    else:
        for x in xs:
            yield x
