"""`InferenceEngine`: models by name, requests in, handles out, for any number of threads and event loops."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from weakref import finalize

import torch
from torch import nn

from bitnet_jit.checkpoints.checksum import Stamp
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.devices.checks import check_device
from bitnet_jit.engine.calls.embeddings import EmbeddingCalls
from bitnet_jit.engine.calls.tensors import TensorCalls
from bitnet_jit.engine.calls.texts import TextCalls
from bitnet_jit.engine.devices.fallback import Fallback
from bitnet_jit.engine.devices.named import as_devices
from bitnet_jit.engine.devices.selector import DeviceSelector
from bitnet_jit.engine.grammar.grammar import Grammar
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.memory.pool import DEFAULT_LIMIT_BYTES
from bitnet_jit.engine.models.held import Held
from bitnet_jit.engine.models.loading import load_into
from bitnet_jit.engine.models.model import Model, make_model, text_parts
from bitnet_jit.engine.models.preparing import tune, warm_up
from bitnet_jit.engine.models.processes import check_module, in_processes, make_processes, weight_bytes_of
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.models.store import ModelStore, check_name
from bitnet_jit.engine.models.usage import CacheStats, MemoryUsage, memory_usage, weight_bytes
from bitnet_jit.engine.options.builder import EngineBuilder
from bitnet_jit.engine.options.config import AUTO, EngineConfig
from bitnet_jit.engine.pending import Pending
from bitnet_jit.engine.tensors.infer import infer
from bitnet_jit.engine.text.asking import Prompt, check_pages, make_request, set_extras, set_terms
from bitnet_jit.engine.text.generation import Generation
from bitnet_jit.engine.text.stats import ModelStats, stats_of
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop


class InferenceEngine(TextCalls, EmbeddingCalls, TensorCalls):
    """Serves many requests at once.

    Each decoder has a worker thread, which writes the texts of all its requests together: requests join and leave
    between steps, and each text is, token for token, the one that it would be alone.

    Args:
        config: how much it takes in; None: `EngineConfig()`.

    >>> import bitnet_jit
    >>> from bitnet_jit.engine import InferenceEngine
    >>> with InferenceEngine() as engine:
    ...     model = engine.add_model("tiny", bitnet_jit.load())
    ...     one = engine.submit("tiny", "And it came to pass ", max_new_tokens=10)
    ...     two = engine.submit("tiny", "In the beginning ", max_new_tokens=10)
    ...     print(one.result().text, "|", two.result().text)
    after the  | of the fle
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self._fallback = Fallback()
        self._memory = EngineMemory(self.config.memory_pool_bytes or DEFAULT_LIMIT_BYTES)
        self._infer = partial(infer, memory=self._memory)
        self._store = store = ModelStore(self.config.max_cached_models, self.config.max_cached_bytes)
        finalize(self, store.close, True)  # where nobody closes it: no thread outlives it, or Python

    @classmethod
    def builder(cls) -> EngineBuilder:
        """Return what builds an engine, option by option."""
        return EngineBuilder(cls)

    @classmethod
    def balanced(cls) -> Self:
        """Return an engine of `EngineConfig.balanced()`."""
        return cls(EngineConfig.balanced())

    @classmethod
    def optimized_for_speed(cls) -> Self:
        """Return an engine of `EngineConfig.optimized_for_speed()`."""
        return cls(EngineConfig.optimized_for_speed())

    @classmethod
    def optimized_for_memory(cls) -> Self:
        """Return an engine of `EngineConfig.optimized_for_memory()`."""
        return cls(EngineConfig.optimized_for_memory())

    @property
    def device(self) -> torch.device:
        """Return the device on which models are loaded where nobody names one: `config.device`, or the fastest one."""
        return DeviceSelector().select() if self.config.device == AUTO else check_device(self.config.device)

    @property
    def memory(self) -> EngineMemory:
        """Return the pool and the copies of its calls, to be shared by processors and streams beside it."""
        return self._memory

    @property
    def models(self) -> dict[str, Model]:
        """Return the models by their names."""
        return {name: held.model for name, held in self._store.held.items()}

    def model(self, model_id: str) -> Model:
        """Return a model, which counts as used. Raises ModelNotFound where there is none of that name."""
        return self._store.get(model_id).model

    def add_model(
        self, model_id: str, module: nn.Module, replicas: Sequence[nn.Module] = (), *, pinned: bool = True
    ) -> Model:
        """Take in a model that is in memory: a decoder, or any module that takes tensors.

        Args:
            model_id: its name.
            module: the model.
            replicas: the same model on other devices, among which requests are shared out; see `ReplicaGroup` and
                `Balanced`.
            pinned: whether it stays until `remove_model`; else it may be let go for others, as those of `load_model`.

        Raises:
            InvalidInput: the name is taken, a replica is another model, or memory does not suffice for the pages.
            EngineClosed: the engine is closed.
        """
        check_name(model_id)
        check_module(module, self.config)
        num_bytes = None if pinned else weight_bytes(module)
        return self._store.put(model_id, partial(self._make, model_id, module, replicas, pinned), num_bytes).model

    def load_model(
        self,
        path: str | os.PathLike[str] | None = None,
        model_id: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        head: str = "checkpoint",
        cache: str = "auto",
        devices: Sequence[torch.device | str] = (),
        *,
        i2_s: str = USUAL,
        checksum: str | None = None,
        pinned: bool = False,
    ) -> Pending[Model]:
        """Load a checkpoint as `bitnet_jit.load` does, in a thread, and take it in.

        A model that the engine has is not read again: who asks for the same path and options gets the same Model. How
        many are kept is said by the config; the one that nobody has used for longest makes room for a new one.

        Args:
            path, device, dtype, head, cache, i2_s: as in `bitnet_jit.load`; None as a device is the engine's.
            devices: several in place of `device`, each of which gets the weights and a worker; one that is named twice
                gets two workers. With `EngineConfig.processes` each worker has a process with weights of its own.
            model_id: its name; None: that of its folder.
            checksum: the SHA-256 of its weights, which `cat *.safetensors | sha256sum` prints; None: any.
            pinned: whether it never makes room for others.

        Returns:
            The work: `await` it in an event loop, or ask it for its `.result()`.

        Raises:
            CheckpointError: there is no such model, it is damaged, or its weights have another checksum.
            InvalidInput: an argument makes no sense, or the name is taken by another model.
            OutOfMemory: it would have to take the place of models that are in use.
        """
        places = as_devices(device, devices) if devices or device is not None else []
        source = Source.of(path, places, dtype, head, cache, i2_s)
        return Pending(lambda: self._load(source, model_id, checksum, pinned).model, "bitnet-jit load")

    def remove_model(self, model_id: str, abandon: bool = False) -> None:
        """Let a model go, after its requests or without them. Raises ModelNotFound."""
        self._store.remove(model_id, abandon)

    def clear_cache(self) -> int:
        """Let models go that are neither pinned nor in use, and unused buffers; return the number of models."""
        self._memory.trim()
        return self._store.clear()

    def cache_stats(self) -> CacheStats:
        """Return how many models are kept, and how often one that was asked for was there."""
        return self._store.stats()

    def memory_usage(self) -> MemoryUsage:
        """Return what the models take, and what this process holds."""
        return memory_usage(self._store.held.values(), self._memory.statistics().allocated_bytes)

    def _load(
        self, source: Source, model_id: str | None = None, checksum: str | None = None, pinned: bool = False
    ) -> Held:
        """Return the model of a source, read where the engine has it not; on the engine's device where it has none."""
        source = source if source.devices else replace(source, devices=(self.device,))
        return load_into(self._store, self._read, source, model_id, checksum, pinned)

    def _read(self, model_id: str, source: Source, path: Path, stamp: Stamp, pinned: bool) -> Held:
        """Return the model of a source that was found at a path: in this process, or in one for each worker."""
        if not in_processes(self.config, source):
            decoder, *replicas = source.load(path)
            return self._make(model_id, decoder, replicas, pinned, source)
        model = make_processes(model_id, source, path, stamp, self.config)
        return self._prepared(Held(model, source, pinned, weight_bytes_of(model)))

    def _make(
        self,
        model_id: str,
        module: nn.Module,
        replicas: Sequence[nn.Module],
        pinned: bool,
        source: Source | None = None,
    ) -> Held:
        """Return a module as a model to be held, its worker begun where it writes text."""
        if self.config.optimization_level.prepares:
            tune([module, *replicas], self.config)
        model = make_model(model_id, module, self.config, replicas)
        return self._prepared(Held(model, source, pinned, weight_bytes(module, *replicas)))

    def _prepared(self, held: Held) -> Held:
        """Return a model that has written its first texts, where the config asks for that."""
        try:
            if self.config.optimization_level.prepares and held.model.replica is not None:
                warm_up(*text_parts(held.model), self.config)
        except BaseException:
            held.close(abandon=True)
            raise
        return held

    def submit(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        *,
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
        speculate: Literal["ngram"] | None = None,
        prompt_logprobs: int | None = None,
        priority: int = 0,
        client: str = "",
        timeout_s: float | None = None,
    ) -> Generation:
        """Ask for a text; return its handle at once.

        Args:
            model_id, prompt: a decoder's name; text, or token ids.
            max_new_tokens, stop: as in `Decoder.generate`; but a string that ends the text is no part of it.
            sampling, ignore_eos: how tokens are chosen, None: the likeliest; whether texts go on behind end tokens.
            grammar: what the text must be, such as JSON by a schema; needs the extra `serve`.
            speculate: "ngram" guesses tokens from the text itself, and verifies several in a step.
            prompt_logprobs: likeliest tokens whose log-probabilities are given beside each token of the prompt.
            priority, client, timeout_s: higher priorities begin first; clients of equal ones share; seconds to its end.

        Raises:
            InvalidInput: a value is out of range, or the text would not fit the model's context or the pages.
            ModelNotFound, QueueFull, EngineClosed: no such model; too many requests wait; no more are taken.
        """
        with self._store.starting(model_id) as held:
            decoder, replica = text_parts(held.model)
            request = make_request(decoder, prompt, max_new_tokens, sampling, stop, ignore_eos)
            check_pages(request, replica.num_pages)
            set_terms(request, priority, client, timeout_s)
            set_extras(request, held.model.grammars, grammar, speculate, prompt_logprobs)
            request.ended = partial(self._store.end, held)
            replica.submit(request)
        return request.generation

    def stats(self) -> dict[str, ModelStats]:
        """Return what each decoder does at this moment."""
        return {
            name: stats_of(model.replica.members) for name, model in self.models.items() if model.replica is not None
        }

    def close(self, abandon: bool = False) -> None:
        """Take no more requests, write those that were taken to their ends, or abandon them, and free the models."""
        self._store.close(abandon)

    async def aclose(self, abandon: bool = False) -> None:
        """Do as `close` does, without stopping the event loop."""
        await asyncio.to_thread(self.close, abandon)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abandon=kind is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(abandon=kind is not None)
