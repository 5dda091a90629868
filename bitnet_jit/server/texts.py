"""From a request to generations: its options checked, its prompts in tokens, all submitted or none."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bitnet_jit.engine.text.generation import Completion, Generation
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.defaults import Defaults, first
from bitnet_jit.generation.sampling import MAX_SEED, Sampling
from bitnet_jit.server.answers import PromptDetails, Usage
from bitnet_jit.server.requests import BySchema, TextRequest
from bitnet_jit.server.service import Service

if TYPE_CHECKING:
    from bitnet_jit.engine.grammar.grammar import Grammar

MAX_STOPS = 16


@dataclass(frozen=True)
class Texts:
    """What a request asks for: `n` texts behind each prompt.

    Attributes:
        request: as it came.
        prompts: their token ids.
        limit: new tokens of a text; None: as many as fit.
        logprobs: number of likeliest tokens to give; None gives none.
        of_prompts: whether log-probabilities of the prompts are given, too.
        grammar: what texts must be, or None.
        number: the id of the answer.
        created: seconds of the Unix clock.
    """

    request: TextRequest
    prompts: Sequence[list[int]]
    limit: int | None
    logprobs: int | None
    number: str
    of_prompts: bool = False
    grammar: "Grammar | None" = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def n(self) -> int:
        """Return the number of texts behind each prompt."""
        return self.request.n or 1

    @property
    def wants_usage(self) -> bool:
        """Return whether a stream is to end with the numbers of tokens."""
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    def submit(self, service: Service) -> list[Generation]:
        """Hand all texts to the engine, in the order of their prompts; on a refusal, none remains.

        Raises:
            InvalidInput, ModelNotFound, QueueFull, EngineClosed: as the engine does.
        """
        defaults = defaults_of(service, self.request.model)
        options, stop = sampling(self.request, self.logprobs, defaults), stops(self.request)
        generations: list[Generation] = []
        try:
            for prompt in self.prompts:
                for place in range(self.n):
                    generations.append(self._submit_one(service, prompt, nth(options, place), stop))
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise
        service.watch.add(self.request.model, generations)
        return generations

    def _submit_one(
        self, service: Service, prompt: list[int], options: Sampling, stop: tuple[int | str, ...]
    ) -> Generation:
        """Hand one text to the engine."""
        model_id = self.request.model
        generation: Generation = service.engine.submit(
            model_id,
            prompt,
            room_behind(service, model_id, prompt) if self.limit is None else self.limit,
            options,
            stop,
            ignore_eos=bool(self.request.ignore_eos),
            grammar=self.grammar,
            speculate=service.speculate,
            prompt_logprobs=self.logprobs if self.of_prompts else None,
            client=self.request.user or "",
            timeout_s=service.limits.request_s,
        )
        return generation

    def usage(self, completions: Sequence[Completion]) -> Usage:
        """Return the numbers of tokens; a prompt counts once, however many texts it has got."""
        prompts, new = sum(map(len, self.prompts)), sum(len(item.tokens) for item in completions)
        cached = sum(item.cached_tokens for item in completions[:: self.n])
        details = PromptDetails(cached_tokens=cached)
        return Usage(
            prompt_tokens=prompts, completion_tokens=new, total_tokens=prompts + new, prompt_tokens_details=details
        )


def new_id(kind: str) -> str:
    """Return an id for an answer."""
    return f"{kind}-{uuid.uuid4().hex}"


def defaults_of(service: Service, model_id: str) -> Defaults:
    """Return what a model's files say of sampling."""
    return getattr(service.engine.model(model_id).module, "defaults", Defaults())


def sampling(request: TextRequest, logprobs: int | None, defaults: Defaults) -> Sampling:
    """Return the options of a request; InvalidInput where one is out of range."""
    top_k = defaults.top_k if request.top_k is None else request.top_k
    return Sampling(
        temperature=first(request.temperature, defaults.temperature, 1.0),
        top_k=None if top_k in (-1, 0) else top_k,
        top_p=first(request.top_p, defaults.top_p),
        seed=request.seed,
        min_p=first(request.min_p, defaults.min_p),
        repetition_penalty=first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=biases(request.logit_bias),
        logprobs=logprobs,
    )


async def grammar_of(service: Service, request: TextRequest) -> "Grammar | None":
    """Return what the texts of a request must be; compiled in a thread, where the engine finds it then.

    Raises:
        InvalidInput: the schema is none, has no text that ends, or is too much.
    """
    from bitnet_jit.engine.grammar.grammar import Grammar  # imports torch

    given = request.response_format
    if given is None or given.type == "text":
        return None
    model = service.engine.model(request.model)

    def compiled() -> "Grammar":
        schema = given.json_schema.schema_ if isinstance(given, BySchema) else None
        grammar = Grammar.json_object() if schema is None else Grammar.json_schema(schema)
        model.grammars.matcher(grammar)
        return grammar

    return await asyncio.to_thread(compiled)


def nth(options: Sampling, place: int) -> Sampling:
    """Return the options of one of several texts: each draws by a seed of its own."""
    if options.seed is None or not place:
        return options
    return replace(options, seed=(options.seed + place) % (MAX_SEED + 1))


def biases(given: dict[str, float] | None) -> dict[int, float] | None:
    """Return biases by numbers, as JSON has strings only for keys."""
    if not given:
        return None
    wrong = next((key for key in given if not (key.isascii() and key.isdigit() and len(key) < 11)), None)
    if wrong is not None:
        raise InvalidInput(f"logit_bias: expected token ids as keys, got {wrong[:40]!r}")
    return {int(key): value for key, value in given.items()}


def stops(request: TextRequest) -> tuple[int | str, ...]:
    """Return what ends a text."""
    strings = [request.stop] if isinstance(request.stop, str) else request.stop or []
    items: tuple[int | str, ...] = (*strings, *(request.stop_token_ids or ()))
    if len(items) > MAX_STOPS:
        raise InvalidInput(f"stop: expected at most {MAX_STOPS} strings and tokens, got {len(items)}")
    return items


def context_of(service: Service, model_id: str) -> int | None:
    """Return the length of a model's context, None where it is no model of text."""
    config = getattr(service.engine.model(model_id).module, "config", None)
    return getattr(config, "context_length", None)


def room_behind(service: Service, model_id: str, prompt: Sequence[int]) -> int | None:
    """Return how many tokens fit behind a prompt, None where that is unknown or nothing, which the engine refuses."""
    context = context_of(service, model_id)
    return context - len(prompt) if context is not None and context > len(prompt) else None


def check_number(service: Service, prompts: int, n: int) -> None:
    """Raise InvalidInput where a request asks for too many texts."""
    most = service.limits.texts
    if prompts * n > most:
        name = "prompt" if prompts > most else "n"
        raise InvalidInput(f"{name}: expected at most {most} texts of a request, got {prompts} prompts x {n}")


def check_lengths(service: Service, prompts: Sequence[Sequence[int]], name: str = "prompt") -> None:
    """Raise InvalidInput where a prompt is too long; `name` is that of the field."""
    most, longest = service.limits.prompt_tokens, max(map(len, prompts))
    if most is not None and longest > most:
        raise InvalidInput(f"{name}: expected at most {most} tokens, got {longest}")


async def tokens_of(service: Service, model_id: str, prompt: str) -> list[int]:
    """Return the tokens of a prompt; made in a thread, since a long text takes its time.

    Raises:
        InvalidInput: the text is empty, makes no token, or the model has no tokenizer.
    """
    module = service.engine.model(model_id).module
    return await asyncio.to_thread(encode, module, prompt)


def encode(module: Any, prompt: str) -> list[int]:
    """Return the tokens of a prompt."""
    from bitnet_jit.generation.prompts import encode_prompt  # imports torch

    if getattr(module, "tokenizer", None) is None:
        raise InvalidInput("prompt: this model came without a tokenizer, so it takes token ids only")
    return encode_prompt(module, prompt)[1]
