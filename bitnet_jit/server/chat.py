"""POST /v1/chat/completions."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from bitnet_jit.engine.text.generation import Completion, Generation, TokenLogprobs
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.text import without_added
from bitnet_jit.server.answers import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    ChatResponse,
    TopLogprob,
)
from bitnet_jit.server.requests import ChatRequest, Message
from bitnet_jit.server.service import Service, ServiceOf
from bitnet_jit.server.sse import STREAMED, EventStream, completed, merged
from bitnet_jit.server.texts import Texts, check_lengths, check_number, grammar_of, new_id, tokens_of
from bitnet_jit.server.token_texts import TokenTexts

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatResponse, responses=STREAMED)
async def create_chat_completion(body: ChatRequest, request: Request, service: ServiceOf) -> Response:
    """Answer the last message of a chat."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput("top_logprobs: expected logprobs to be true beside it")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidInput("max_tokens: expected max_completion_tokens alone, got both")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    check_number(service, 1, body.n or 1)
    prompt = await chat_tokens(service, body.model, body.messages)
    check_lengths(service, [prompt])
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    grammar = await grammar_of(service, body)
    texts = Texts(body, [prompt], limit, logprobs, new_id("chatcmpl"), grammar=grammar)
    generations = texts.submit(service)
    if body.stream:
        return EventStream(chunks(service, texts, generations), generations)
    completions = await completed(generations, request)
    service.metrics.note(body.model, completions)
    return Response(whole_answer(service, texts, completions).model_dump_json(), media_type="application/json")


async def chat_tokens(service: Service, model_id: str, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of a chat; the template writes all special ones, so the tokenizer adds none."""
    template = service.template(model_id)
    text = await asyncio.to_thread(template.render, [as_plain(message) for message in messages])
    tokens = await tokens_of(service, model_id, text)
    tokenizer = service.engine.model(model_id).tokenizer
    return tokens if tokenizer is None else without_added(tokens, tokenizer.encode(""))


def as_plain(message: Message) -> dict[str, str]:
    """Return a message as templates expect it, its parts as one text."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return {"role": message.role, "content": text} | ({} if message.name is None else {"name": message.name})


def whole_answer(service: Service, texts: Texts, completions: Sequence[Completion]) -> ChatResponse:
    """Return the answer of a request that is not streamed."""
    request = texts.request
    choices = []
    for index, completion in enumerate(completions):
        logprobs = None
        if completion.logprobs is not None:
            names = service.token_texts(request.model)
            logprobs = logprobs_of(names, completion.tokens, completion.logprobs)
        message = ChatMessage(role="assistant", content=completion.text)
        reason = completion.finish_reason
        choices.append(ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=reason))
    usage = texts.usage(completions)
    return ChatResponse(id=texts.number, created=texts.created, model=request.model, choices=choices, usage=usage)


def logprobs_of(names: TokenTexts, tokens: Sequence[int], values: Sequence[TokenLogprobs]) -> ChatLogprobs:
    """Return log-probabilities in OpenAI's form."""
    content = []
    for token, item in zip(tokens, values, strict=True):
        top = [
            TopLogprob(token=names.name(other), logprob=value, bytes=names.utf8(other))
            for other, value in item.likeliest
        ]
        content.append(
            ChatLogprob(token=names.name(token), logprob=item.chosen, bytes=names.utf8(token), top_logprobs=top)
        )
    return ChatLogprobs(content=content)


async def chunks(service: Service, texts: Texts, generations: Sequence[Generation]) -> AsyncGenerator[ChatChunk, None]:
    """Yield the answers of a request as they come, the role of each first."""
    names = None if texts.logprobs is None else service.token_texts(texts.request.model)
    for index in range(len(generations)):
        yield chunk(texts, delta(index, ChatMessage(role="assistant", content="")))
    async for index, piece in merged(generations):
        if piece is None:
            yield chunk(texts, delta(index, ChatMessage(), reason=generations[index].completion.finish_reason))
        elif piece.text or piece.logprobs is not None:
            values = None
            if names is not None and piece.logprobs is not None:
                values = logprobs_of(names, [piece.token], [piece.logprobs])
            yield chunk(texts, delta(index, ChatMessage(content=piece.text), values))
    completions = [generation.completion for generation in generations]
    service.metrics.note(texts.request.model, completions)
    if texts.wants_usage:
        yield chunk(texts, None).model_copy(update={"usage": texts.usage(completions)})


def delta(
    index: int, message: ChatMessage, logprobs: ChatLogprobs | None = None, reason: str | None = None
) -> ChatDelta:
    """Return a part of an answer; each of its fields is written."""
    return ChatDelta(index=index, delta=message, logprobs=logprobs, finish_reason=reason)


def chunk(texts: Texts, part: ChatDelta | None) -> ChatChunk:
    """Return one chunk of a stream."""
    return ChatChunk(
        id=texts.number,
        object="chat.completion.chunk",
        created=texts.created,
        model=texts.request.model,
        choices=[] if part is None else [part],
    )
