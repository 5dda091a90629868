"""`InferenceStream`: a source of tensors on one side, their outputs on the other, and batches that form in between."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

import torch
from torch import nn

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.tensors.infer import MAX_ROW_DIMS, check_module
from bitnet_jit.engine.tensors.pipeline import Pipeline
from bitnet_jit.engine.tensors.streaming import StreamingConfig as StreamingConfig
from bitnet_jit.engine.tensors.streaming import StreamItem as StreamItem
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.cores import available_cores

MAX_WORKERS = 1024


class InferenceStream:
    """Runs the tensors of sources through a module in batches that form by themselves.

    Each call of `run` or `run_async` is a stream of its own; several may run at a time.

    Args:
        module: as in `infer_batch`: it treats every row by itself.
        config: None: the defaults.
        workers: threads that form and run batches. None: one where order is kept, as it uses all cores for each batch;
            else as many as there are cores, of which none waits for another.
        row_dims: dimensions of a row, as in `infer_batch`.
        memory: in which rows are joined, and through which they are moved, such as `InferenceEngine.memory`.

    Raises:
        InvalidInput: an argument is out of range.

    >>> stream = InferenceStream(nn.Linear(8, 3), StreamingConfig(buffer_size=4))
    >>> [(item.index, tuple(item.result().shape)) for item in stream.run([torch.ones(8), torch.ones(2, 8)])]
    [(0, (3,)), (1, (2, 3))]
    """

    def __init__(
        self,
        module: nn.Module,
        config: StreamingConfig | None = None,
        *,
        workers: int | None = None,
        row_dims: int = 1,
        memory: EngineMemory = DEFAULT_MEMORY,
    ) -> None:
        check_module(module)
        self._memory = memory
        self.module, self.config = module, config or StreamingConfig()
        usual = 1 if self.config.preserve_order else available_cores()
        self.workers = usual if workers is None else whole_number("workers", workers, 1, MAX_WORKERS, none=True)
        self.row_dims = whole_number("row_dims", row_dims, 1, MAX_ROW_DIMS)

    def run(self, source: Iterable[torch.Tensor]) -> Iterator[StreamItem]:
        """Yield the result of each item of a source; wait for them in this thread.

        Args:
            source: a list, an iterator, a `Ticker`, ...; it is read in a thread of its own. An error that it raises is
                the last result.

        Raises:
            InvalidInput: the source cannot be iterated here.
        """
        if not isinstance(source, Iterable):
            raise InvalidInput(f"source: expected an iterable of tensors (async: run_async), got {show(source)}")
        return self._run(source)

    def _run(self, source: Iterable[torch.Tensor]) -> Iterator[StreamItem]:
        pipeline = Pipeline(self.module, self.config, self.workers, self.row_dims, self._memory)
        try:
            pipeline.start(source)
            while results := pipeline.outbox.take():
                for result in results:
                    yield pipeline.taken(result)
        finally:
            pipeline.stop()

    async def run_async(
        self, source: Iterable[torch.Tensor] | AsyncIterable[torch.Tensor]
    ) -> AsyncIterator[StreamItem]:
        """Yield as `run` does, in an event loop; an async source is read in that loop."""
        if not isinstance(source, Iterable | AsyncIterable):
            raise InvalidInput(f"source: expected an iterable of tensors, async or not, got {show(source)}")
        pipeline = Pipeline(self.module, self.config, self.workers, self.row_dims, self._memory)
        feeder = None
        try:
            if isinstance(source, AsyncIterable):
                pipeline.start()
                feeder = asyncio.create_task(pipeline.feed_async(source))
            else:
                pipeline.start(source)
            while results := await pipeline.outbox.take_async():
                for result in results:
                    yield pipeline.taken(result)
        finally:
            pipeline.stop()
            if feeder is not None:
                feeder.cancel()
                await asyncio.wait([feeder])
