"""`InferenceEngine`: models by name, requests in, handles out, for any number of threads and event loops."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self
from weakref import finalize

import torch
from torch import nn

from bitnet_jit.arguments import show
from bitnet_jit.checkpoints.loading import load
from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.devices.fallback import Fallback
from bitnet_jit.engine.devices.named import as_devices
from bitnet_jit.engine.devices.selector import DeviceSelector
from bitnet_jit.engine.embedding_calls import EmbeddingCalls
from bitnet_jit.engine.model import Model, close_models, make_model
from bitnet_jit.engine.tensors.benchmark import benchmark
from bitnet_jit.engine.tensors.report import BenchmarkResults
from bitnet_jit.engine.text.asking import Prompt, check_pages, make_request, set_extras, set_terms
from bitnet_jit.engine.text.embedding import Embedding
from bitnet_jit.engine.text.embedding_request import make_embedding_request
from bitnet_jit.engine.text.generation import Completion, Generation
from bitnet_jit.engine.text.grammar import Grammar
from bitnet_jit.engine.text.stats import ModelStats, stats_of
from bitnet_jit.errors import EngineClosed, InvalidInput, ModelNotFound
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop


class InferenceEngine(EmbeddingCalls):
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
        self._models: dict[str, Model] = {}
        self._lock = Lock()
        self._is_closed = False
        self._fallback = Fallback()
        finalize(self, close_models, self._models, True)  # where nobody closes it: no thread outlives it, or Python

    @property
    def device(self) -> torch.device:
        """Return the device on which models are loaded where nobody names one: the fastest; see `DeviceSelector`."""
        return DeviceSelector().select()

    @property
    def models(self) -> dict[str, Model]:
        """Return the models by their names."""
        return dict(self._models)

    def model(self, model_id: str) -> Model:
        """Return a model. Raises ModelNotFound where there is none of that name."""
        model = self._models.get(model_id)
        if model is None:
            raise ModelNotFound(f"model_id: expected one of {', '.join(self._models) or 'none'}, got {show(model_id)}")
        return model

    def add_model(self, model_id: str, module: nn.Module, replicas: Sequence[Decoder] = ()) -> Model:
        """Take in a model that is in memory: a decoder, or any module that takes tensors.

        Args:
            model_id: its name from now on.
            module: the model.
            replicas: the same decoder on other devices, each of which gets a worker, too; see `ReplicaGroup`.

        Raises:
            InvalidInput: the name is taken, a replica is another model, or memory does not suffice for the pages.
            EngineClosed: the engine is closed.
        """
        if not isinstance(model_id, str) or not model_id:
            raise InvalidInput(f"model_id: expected a name, got {show(model_id)}")
        if not isinstance(module, nn.Module):
            raise InvalidInput(f"module: expected a torch.nn.Module, got {type(module).__name__}")
        with self._lock:
            if self._is_closed:
                raise EngineClosed("the engine takes no more models: it is closed")
            if model_id in self._models:
                raise InvalidInput(f"model_id: expected a new name, got {model_id!r}, which is taken")
            self._models[model_id] = model = make_model(model_id, module, self.config, replicas)
        return model

    async def load_model(
        self,
        path: str | Path | None = None,
        model_id: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        head: str = "checkpoint",
        cache: str = "auto",
        devices: Sequence[torch.device | str] = (),
    ) -> Model:
        """Load a checkpoint as `bitnet_jit.load` does, in a thread, and take it in; its name is that of its folder.

        `devices` names several in place of `device`, each of which gets the weights and a worker; one that is named
        twice gets two workers on the same weights.
        """
        places = as_devices(device, devices) if devices or device is not None else [self.device]
        loaded = {
            place: await asyncio.to_thread(load, path, place, dtype, head=head, cache=cache)
            for place in dict.fromkeys(places)
        }
        decoder, *replicas = [loaded[place] for place in places]
        name = model_id or (Path(path).name if path is not None else "tiny-bitnet")
        return self.add_model(name, decoder, replicas)

    def submit(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        *,
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
            sampling: how tokens are chosen; None always takes the likeliest.
            grammar: what the text must be, such as JSON by a schema; needs the extra `serve`.
            speculate: "ngram" guesses tokens from the text itself, and verifies several in a step.
            prompt_logprobs: likeliest tokens whose log-probabilities are given beside each token of the prompt.
            priority, client: higher priorities begin first; clients with requests of equal ones share evenly.
            timeout_s: seconds until it must have ended; None: no limit.

        Raises:
            InvalidInput: a value is out of range, or the text would not fit the model's context or the pages.
            ModelNotFound, QueueFull, EngineClosed: no such model; too many requests wait; no more are taken.
        """
        model = self.model(model_id)
        if model.replica is None or not isinstance(model.module, Decoder):
            raise InvalidInput(f"model_id: {model_id!r} is no decoder, and writes no text")
        request = make_request(model.module, prompt, max_new_tokens, sampling, stop, model.replica.cancel)
        check_pages(request, model.replica.num_pages)
        set_terms(request, priority, client, timeout_s)
        set_extras(request, model.grammars, grammar, speculate, prompt_logprobs)
        model.replica.submit(request)
        return request.generation

    async def generate(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
    ) -> Completion:
        """Write a text to its end; arguments and errors are those of `submit`."""
        return await self.submit(model_id, prompt, max_new_tokens, sampling, stop)

    def submit_embedding(
        self, model_id: str, prompt: Prompt, client: str = "", timeout_s: float | None = None
    ) -> Embedding:
        """Ask for the embedding of a text; return its handle at once; arguments and errors are those of `submit`."""
        model = self.model(model_id)
        if model.replica is None or not isinstance(model.module, Decoder):
            raise InvalidInput(f"model_id: {model_id!r} is no decoder, and reads no text")
        pages = model.replica.num_pages
        request, handle = make_embedding_request(model.module, prompt, model.replica.cancel, pages, client, timeout_s)
        model.replica.submit(request)
        return handle

    def infer(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Return what a model makes of a tensor; see `Fallback.infer`. Raises ModelNotFound, too."""
        return self._fallback.infer(self.model(model_id).module, x)

    def infer_batch(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what a model makes of each tensor, of any numbers of rows; see `Fallback.infer_batch`."""
        return self._fallback.infer_batch(self.model(model_id).module, xs)

    async def infer_async(self, model_id: str, x: torch.Tensor) -> torch.Tensor:
        """Do as `infer` does, in a thread."""
        return await asyncio.to_thread(self.infer, model_id, x)

    async def infer_batch_async(self, model_id: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Do as `infer_batch` does, in a thread."""
        return await asyncio.to_thread(self.infer_batch, model_id, xs)

    def benchmark(self, model_id: str, x: torch.Tensor, iterations: int = 1000) -> BenchmarkResults:
        """Measure a model on one input; see `benchmark.benchmark`. Print `.display()`, or ask for `.grade()`."""
        return benchmark(self.model(model_id).module, x, iterations)

    def stats(self) -> dict[str, ModelStats]:
        """Return what each decoder does at this moment."""
        return {name: stats_of(model.replica) for name, model in self._models.items() if model.replica is not None}

    def close(self, abandon: bool = False) -> None:
        """Take no more requests, write those that were taken to their ends, or abandon them, and free the models."""
        with self._lock:
            self._is_closed = True
        close_models(self._models, abandon)

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
