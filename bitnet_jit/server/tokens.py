"""POST /tokenize and /detokenize, with the fields that vLLM gives them."""

from fastapi import APIRouter

from bitnet_jit.errors import InvalidInput
from bitnet_jit.server.answers import Text, Tokens
from bitnet_jit.server.chat import chat_tokens
from bitnet_jit.server.requests import DetokenizeRequest, TokenizeRequest
from bitnet_jit.server.service import ServiceOf
from bitnet_jit.server.texts import context_of, tokens_of

router = APIRouter()


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, service: ServiceOf) -> Tokens:
    """Return the tokens of a prompt or of a chat."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidInput("prompt: expected either a prompt or messages")
    if body.messages is not None:
        tokens = await chat_tokens(service, body.model, body.messages)
    else:
        tokens = await tokens_of(service, body.model, body.prompt or "")
    return Tokens(count=len(tokens), max_model_len=context_of(service, body.model) or 0, tokens=tokens)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, service: ServiceOf) -> Text:
    """Return the text of tokens."""
    tokenizer = service.engine.model(body.model).tokenizer
    if tokenizer is None:
        raise InvalidInput("tokens: this model came without a tokenizer")
    return Text(prompt=tokenizer.decode(body.tokens))
