"""POST /v1/completions."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from bitnet_jit.engine.text.generation import Completion, Generation, TokenLogprobs
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.unicode import well_formed
from bitnet_jit.server.answers import CompletionChoice, CompletionLogprobs, CompletionResponse
from bitnet_jit.server.requests import CompletionRequest
from bitnet_jit.server.service import Service, ServiceOf
from bitnet_jit.server.sse import STREAMED, EventStream, completed, merged
from bitnet_jit.server.texts import Texts, check_lengths, check_number, grammar_of, new_id, tokens_of
from bitnet_jit.server.token_texts import TokenTexts

DEFAULT_TOKENS = 16  # OpenAI's
router = APIRouter()


@router.post("/v1/completions", response_model=CompletionResponse, responses=STREAMED)
async def create_completion(body: CompletionRequest, request: Request, service: ServiceOf) -> Response:
    """Continue prompts."""
    texts = await texts_of(service, body)
    echoes = echoes_of(service, body, texts.prompts)
    generations = texts.submit(service)
    if body.stream:
        return EventStream(chunks(service, texts, generations, echoes), generations)
    completions = await completed(generations, request)
    service.metrics.note(body.model, completions)
    if body.max_tokens == 0:
        completions = [replace(item, text="", tokens=[], logprobs=item.logprobs and []) for item in completions]
    answer = whole_answer(service, texts, completions, echoes)
    return Response(answer.model_dump_json(), media_type="application/json")


async def texts_of(service: Service, body: CompletionRequest) -> Texts:
    """Return what a request asks for; InvalidInput where it contradicts itself or is too much."""
    scores_prompts = bool(body.echo) and body.logprobs is not None
    if scores_prompts and body.stream:
        raise InvalidInput("stream: expected false beside echo and logprobs: a prompt is scored as a whole")
    prompts = await prompts_of(service, body)
    check_lengths(service, prompts)
    limit = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    if not limit and body.echo and not body.stream:
        limit = 1  # the engine writes one token at least, which is left out
    grammar = await grammar_of(service, body)
    return Texts(body, prompts, limit, body.logprobs, new_id("cmpl"), scores_prompts, grammar)


async def prompts_of(service: Service, body: CompletionRequest) -> list[list[int]]:
    """Return the tokens of each prompt, whatever form they came in; InvalidInput where there is none."""
    given: Any = body.prompt
    if not given:
        raise InvalidInput(f"prompt: expected at least one character or token, got {given!r}")
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    check_number(service, len(given), body.n or 1)
    service.engine.model(body.model)  # before work is done for it
    return [await tokens_of(service, body.model, item) if isinstance(item, str) else item for item in given]


def echoes_of(service: Service, body: CompletionRequest, prompts: Sequence[list[int]]) -> list[str]:
    """Return what stands before each text: its prompt where that was asked for."""
    if not body.echo:
        return [""] * len(prompts)
    given: Any = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if isinstance(given[0], str):
        return [well_formed(text) for text in given]
    tokenizer = service.engine.model(body.model).tokenizer
    if tokenizer is None:
        raise InvalidInput("echo: this model came without a tokenizer, so token ids cannot be written as text")
    return [tokenizer.decode(prompt) for prompt in prompts]


def whole_answer(
    service: Service, texts: Texts, completions: Sequence[Completion], echoes: Sequence[str]
) -> CompletionResponse:
    """Return the answer of a request that is not streamed."""
    request = texts.request
    choices = []
    for index, completion in enumerate(completions):
        echo = echoes[index // texts.n]
        logprobs = None
        if completion.logprobs is not None:
            names = service.token_texts(request.model)
            logprobs = logprobs_of(names, *scored(texts, index, completion), 0 if texts.of_prompts else len(echo))
        choices.append(
            CompletionChoice(
                index=index, text=echo + completion.text, logprobs=logprobs, finish_reason=completion.finish_reason
            )
        )
    usage = texts.usage(completions)
    return CompletionResponse(id=texts.number, created=texts.created, model=request.model, choices=choices, usage=usage)


def scored(texts: Texts, index: int, completion: Completion) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Return tokens and their log-probabilities: of the text, and of its prompt where that was asked for."""
    values = completion.logprobs or []
    if not texts.of_prompts:
        return completion.tokens, [*values]
    tokens = [*texts.prompts[index // texts.n], *completion.tokens]
    return tokens, [None, *(completion.prompt_logprobs or []), *values]


def logprobs_of(
    names: TokenTexts, tokens: Sequence[int], values: Sequence[TokenLogprobs | None], offset: int
) -> CompletionLogprobs:
    """Return log-probabilities in OpenAI's form; the chosen token is among the likeliest always."""
    words = [names.name(token) for token in tokens]
    pairs = zip(tokens, values, strict=True)
    top = [None if item is None else names.likeliest(token, item) for token, item in pairs]
    offsets = []
    for word in words:
        offsets.append(offset)
        offset += len(word)
    chosen = [None if item is None else item.chosen for item in values]
    return CompletionLogprobs(tokens=words, token_logprobs=chosen, top_logprobs=top, text_offset=offsets)


async def chunks(
    service: Service, texts: Texts, generations: Sequence[Generation], echoes: Sequence[str]
) -> AsyncGenerator[CompletionResponse, None]:
    """Yield the texts of a request as they come."""
    names = None if texts.logprobs is None else service.token_texts(texts.request.model)
    lengths = [0] * len(generations)
    for index in range(len(generations)):
        if echo := echoes[index // texts.n]:
            lengths[index] = len(echo)
            yield chunk(texts, CompletionChoice(index=index, text=echo, logprobs=None, finish_reason=None))
    async for index, piece in merged(generations):
        if piece is None:
            reason = generations[index].completion.finish_reason
            yield chunk(texts, CompletionChoice(index=index, text="", logprobs=None, finish_reason=reason))
        elif piece.text or piece.logprobs is not None:
            values = None
            if names is not None and piece.logprobs is not None:
                values = logprobs_of(names, [piece.token], [piece.logprobs], lengths[index])
                lengths[index] += len(values.tokens[0])
            yield chunk(texts, CompletionChoice(index=index, text=piece.text, logprobs=values, finish_reason=None))
    completions = [generation.completion for generation in generations]
    service.metrics.note(texts.request.model, completions)
    if texts.wants_usage:
        yield chunk(texts, None).model_copy(update={"usage": texts.usage(completions)})


def chunk(texts: Texts, choice: CompletionChoice | None) -> CompletionResponse:
    """Return one chunk of a stream."""
    choices = [] if choice is None else [choice]
    return CompletionResponse(
        id=texts.number,
        object="text_completion",
        created=texts.created,
        model=texts.request.model,
        choices=choices,
    )
