"""`Pipeline`: one running stream: who reads the source, who forms and runs batches, and in which order results leave.

    source -> feeder -> inbox -> workers, each of which forms a batch and runs it -> outbox -> who iterates

One counter bounds all of it: an item holds a slot of the channel from the moment at which it is read until its result
is taken. A batch begins with its first item. It is run when it is full, or when its first item has waited long enough.
"""

import time
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from threading import Lock, Thread

import torch
from torch import nn

from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.tensors.infer import infer_each
from bitnet_jit.engine.tensors.slots import Slots
from bitnet_jit.engine.tensors.streaming import StreamingConfig, StreamItem
from bitnet_jit.engine.text.mailbox import Mailbox
from bitnet_jit.errors import EngineClosed

Outcome = torch.Tensor | BaseException


@dataclass(frozen=True)
class Read:
    """An item of the source: its number, itself, and time.monotonic() when it was read."""

    index: int
    x: torch.Tensor
    at: float


@dataclass(frozen=True)
class End:
    """The end of a source: the number behind the last item, and the error that broke it off."""

    index: int = 0
    error: Exception | None = None


class Pipeline:
    """A stream from one source to one caller.

    Args:
        module, row_dims, memory: as in `infer_batch`.
        config: how batches form.
        workers: threads that form and run them.

    Attributes:
        outbox: lists of results, one per batch; an empty one is the end.
    """

    def __init__(
        self, module: nn.Module, config: StreamingConfig, workers: int, row_dims: int, memory: EngineMemory
    ) -> None:
        self._module, self._config, self._row_dims, self._memory = module, config, row_dims, memory
        self._inbox, self.outbox = Mailbox(), Mailbox()
        self._slots = Slots(config.channel_capacity)
        self._forming, self._delivering = Lock(), Lock()
        self._batches = self._delivered = 0
        self._done: dict[int, list[StreamItem]] = {}  # batches that wait for one before them
        self._end: End | None = None
        self._stopped = False
        self._working = workers

    def start(self, source: Iterable[torch.Tensor] | None = None) -> None:
        """Start the workers, and a thread that reads the source; without one, `feed_async` reads it."""
        targets: list[Callable[[], None]] = [self._work] * self._working
        if source is not None:
            targets.append(lambda: self._feed(source))
        for target in targets:
            Thread(target=target, name="bitnet_jit stream", daemon=True).start()

    def stop(self) -> None:
        """End all threads after what they are about: nobody takes results any more."""
        self._stopped = True
        self._slots.close("the stream has been left")
        self._inbox.put(End())

    def taken(self, result: StreamItem) -> StreamItem:
        """Return a result that somebody takes; its slot is free now."""
        self._slots.release()
        return result

    def _feed(self, source: Iterable[torch.Tensor]) -> None:
        """Read the source in this thread, an item whenever there is a slot for it."""
        index = 0
        try:
            iterator = iter(source)
            while self._has_slot():
                self._inbox.put(Read(index, next(iterator), time.monotonic()))
                index += 1
        except StopIteration:
            self._inbox.put(End(index))
        except Exception as error:  # whatever a source raises is told to who iterates
            self._inbox.put(End(index, error))

    def _has_slot(self) -> bool:
        """Wait for a slot; return False where the stream has been left."""
        try:
            self._slots.acquire()
        except EngineClosed:
            return False
        return True

    async def feed_async(self, source: AsyncIterable[torch.Tensor]) -> None:
        """Read an async source in its event loop, an item whenever there is a slot for it."""
        index = 0
        try:
            iterator = aiter(source)
            while True:
                await self._slots.acquire_async()
                self._inbox.put(Read(index, await anext(iterator), time.monotonic()))
                index += 1
        except StopAsyncIteration:
            self._inbox.put(End(index))
        except Exception as error:  # whatever a source raises is told to who iterates
            self._inbox.put(End(index, error))

    def _work(self) -> None:
        """Form and run batches until the source has ended."""
        while (items := self._form()) is not None:
            number, batch = items
            outcomes = self._run(batch)
            now = time.monotonic()
            results = [
                StreamItem(read.index, *sorted_out(outcome), len(batch), now - read.at)
                for read, outcome in zip(batch, outcomes, strict=True)
            ]
            self._deliver(number, results)
        with self._delivering:
            self._working -= 1
            if self._working == 0:
                self._finish()

    def _form(self) -> tuple[int, list[Read]] | None:
        """Return the next batch and its number; None where there will be none."""
        with self._forming:
            batch: list[Read] = []
            while len(batch) < self._config.buffer_size and self._end is None and not self._stopped:
                try:
                    item = self._inbox.take(self._patience(batch))
                except TimeoutError:
                    break
                if isinstance(item, End):
                    self._end = item
                else:
                    batch.append(item)
            if not batch or self._stopped:
                return None
            self._batches += 1
            return self._batches - 1, batch

    def _patience(self, batch: list[Read]) -> float | None:
        """Return the seconds that a batch may wait for its next item; what is there already is taken in any case."""
        if not batch:
            return None
        return max(0.0, batch[0].at + self._config.max_latency_ms / 1e3 - time.monotonic())

    def _run(self, batch: list[Read]) -> list[Outcome]:
        """Return the output or the error of each item."""
        try:
            inputs = [read.x for read in batch]
            return list(infer_each(self._module, inputs, row_dims=self._row_dims, memory=self._memory))
        except BaseException as error:  # a module that calls sys.exit would leave the caller waiting
            return [error] * len(batch)

    def _deliver(self, number: int, results: list[StreamItem]) -> None:
        """Hand a batch out, where order is kept after all before it."""
        with self._delivering:
            if not self._config.preserve_order:
                number = self._delivered
            self._done[number] = results
            while self._delivered in self._done:
                self.outbox.put(self._done.pop(self._delivered))
                self._delivered += 1

    def _finish(self) -> None:
        """Tell the end, after the error of the source."""
        if self._end is not None and self._end.error is not None:
            self.outbox.put([StreamItem(self._end.index, None, self._end.error, 0, 0.0)])
        self.outbox.put([])


def sorted_out(outcome: Outcome) -> tuple[torch.Tensor | None, BaseException | None]:
    """Return an outcome as output and error, one of which is None."""
    return (outcome, None) if isinstance(outcome, torch.Tensor) else (None, outcome)
