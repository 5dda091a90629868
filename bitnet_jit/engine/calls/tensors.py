"""`TensorCalls`: what an engine does with tensors; each call in a thread, or by its twin in an event loop."""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitnet_jit.engine.devices.fallback import Fallback, Many, One
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.tensors.batch_size import BatchingConfig
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.engine.tensors.benchmark import benchmark
from bitnet_jit.engine.tensors.infer import infer_batch
from bitnet_jit.engine.tensors.report import BenchmarkResults

if TYPE_CHECKING:
    from bitnet_jit.engine.models.held import Held
    from bitnet_jit.engine.models.store import ModelStore


class TensorCalls:
    """The calls of an engine that take and give tensors."""

    config: EngineConfig
    _store: "ModelStore"
    _fallback: Fallback
    _memory: EngineMemory
    _infer: One

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Return the device on which models are loaded."""

    @abstractmethod
    def _load(self, source: Source, model_id: str | None = None) -> "Held":
        """Return the model of a source."""

    def infer(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Return what a model makes of a tensor; see `Fallback.infer`. Raises ModelNotFound, too."""
        held = self._store.begin(model_id)  # `using` would add 2 us
        try:
            return self._fallback.infer(held.model.module, x, self._infer)
        finally:
            self._store.end(held)

    def infer_batch(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what a model makes of each tensor, of any numbers of rows; see `Fallback.infer_batch`."""
        with self._store.using(model_id) as held:
            most = self.config.batch_rows
            compute = partial(infer_batch, memory=self._memory) if most is None else self._in_batches(held, most)
            return self._fallback.infer_batch(held.model.module, xs, compute)

    async def infer_async(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Do as `infer` does, in a thread."""
        return await asyncio.to_thread(self.infer, model_id, x)

    async def infer_batch_async(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Do as `infer_batch` does, in a thread."""
        return await asyncio.to_thread(self.infer_batch, model_id, xs)

    def quick_infer(self, path: str | os.PathLike[str], x: torch.Tensor) -> torch.Tensor:
        """Load a model, unless the engine has it, and return what it makes of a tensor.

        Args:
            path: the name of a model of the engine; or else a path or hub id, as in `load_model`.
            x: as in `infer`; of a decoder token ids, (..., T) integers, which give logits (..., T, vocab_size).

        Raises:
            CheckpointError, InvalidInput, OutOfMemory: as `load_model` and `infer`.
        """
        with self._store.using(self._loaded(path)) as held:
            return self._fallback.infer(held.model.module, x, self._infer)

    def smart_infer(self, path: str | os.PathLike[str], xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Load a model, unless the engine has it, and return what it makes of each tensor.

        Rows of a batch are as many as are fastest, by what earlier batches of this model took, and fit into memory; see
        `BatchProcessor`. What was learnt stays with the model.

        Args:
            path: as in `quick_infer`.
            xs: tensors (..., *row) with any dimensions before the row, alike in row, dtype and device.

        Raises:
            CheckpointError, InvalidInput, OutOfMemory: as `load_model` and `BatchProcessor.run`.
        """
        with self._store.using(self._loaded(path)) as held:
            compute = self._in_batches(held, self.config.batch_rows)
            return self._fallback.infer_batch(held.model.module, xs, compute)

    async def quick_infer_async(self, path: str | os.PathLike[str], x: torch.Tensor) -> torch.Tensor:
        """Do as `quick_infer` does, in a thread."""
        return await asyncio.to_thread(self.quick_infer, path, x)

    async def smart_infer_async(self, path: str | os.PathLike[str], xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Do as `smart_infer` does, in a thread."""
        return await asyncio.to_thread(self.smart_infer, path, xs)

    def benchmark(self, model_id: str, x: torch.Tensor, iterations: int = 1000) -> BenchmarkResults:
        """Measure a model on one input; see `benchmark.benchmark`. Print `.display()`, or ask for `.grade()`."""
        with self._store.using(model_id) as held:
            return benchmark(held.model.module, x, iterations, self._memory)

    async def benchmark_async(self, model_id: str, x: torch.Tensor, iterations: int = 1000) -> BenchmarkResults:
        """Do as `benchmark` does, in a thread."""
        return await asyncio.to_thread(self.benchmark, model_id, x, iterations)

    def _loaded(self, path: str | os.PathLike[str]) -> "Held":
        """Return the model of a name, or else of a path or hub id."""
        names = self._store.held
        if isinstance(path, str) and path in names:
            return names[path]
        source = Source.of(path, [self.device])
        is_taken = source.name in names and self._store.find(source) is None
        return self._load(source, source.place if is_taken else None)

    def _in_batches(self, held: "Held", max_rows: int | None) -> Many:
        """Return what runs tensors through a model in batches that find their size; what is learnt stays with it."""
        default = BatchingConfig()
        limits = default if max_rows is None else BatchingConfig(min(default.initial, max_rows), max_rows=max_rows)

        def run(module: nn.Module, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            if module is not held.model.module:  # what stands in for it
                return BatchProcessor(module, limits, memory=self._memory).run(xs)
            if held.processor is None:
                held.processor = BatchProcessor(module, limits, memory=self._memory)
            return held.processor.run(xs)

        return run
