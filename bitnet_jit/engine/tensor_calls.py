"""`TensorCalls`: what an engine does with tensors; each call in a thread, or by its twin in an event loop."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.tensors.batch_size import BatchingConfig
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.engine.tensors.benchmark import benchmark
from bitnet_jit.engine.tensors.infer import infer, infer_batch
from bitnet_jit.engine.tensors.report import BenchmarkResults

if TYPE_CHECKING:
    from bitnet_jit.engine.held import Held
    from bitnet_jit.engine.models import ModelStore


class TensorCalls:
    """The calls of an engine that take and give tensors."""

    config: EngineConfig
    _store: "ModelStore"

    def infer(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Return what a model makes of a tensor; see `tensors.infer`. Raises ModelNotFound, too."""
        with self._store.using(model_id) as held:
            return infer(held.model.module, x)

    def infer_batch(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what a model makes of each tensor, of any numbers of rows; see `tensors.infer_batch`."""
        with self._store.using(model_id) as held:
            if self.config.batch_rows is None:
                return infer_batch(held.model.module, xs)
            return processor_of(held, self.config.batch_rows).run(xs)

    async def infer_async(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Do as `infer` does, in a thread."""
        return await asyncio.to_thread(self.infer, model_id, x)

    async def infer_batch_async(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Do as `infer_batch` does, in a thread."""
        return await asyncio.to_thread(self.infer_batch, model_id, xs)

    def benchmark(self, model_id: str, x: torch.Tensor, iterations: int = 1000) -> BenchmarkResults:
        """Measure a model on one input; see `benchmark.benchmark`. Print `.display()`, or ask for `.grade()`."""
        with self._store.using(model_id) as held:
            return benchmark(held.model.module, x, iterations)

    async def benchmark_async(self, model_id: str, x: torch.Tensor, iterations: int = 1000) -> BenchmarkResults:
        """Do as `benchmark` does, in a thread."""
        return await asyncio.to_thread(self.benchmark, model_id, x, iterations)


def processor_of(held: "Held", max_rows: int | None) -> BatchProcessor:
    """Return what finds the size of a model's batches, kept with it so that it goes on learning."""
    if held.processor is None:
        default = BatchingConfig()
        limits = default if max_rows is None else BatchingConfig(min(default.initial, max_rows), max_rows=max_rows)
        held.processor = BatchProcessor(held.model.module, limits)
    return held.processor
