"""POST /tokenize and /detokenize, and GET /tokenizer_info, with the fields that vLLM gives them."""

from fastapi import APIRouter

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.text import without_added
from bitnet_jit.server.answers import Text, TokenizerInfo, Tokens
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
    model_id = service.first_or(body.model)
    if body.messages is not None:
        tokens = await chat_tokens(service, model_id, body.messages)
    else:
        tokens = await tokens_of(service, model_id, body.prompt or "")
    tokenizer = service.engine.model(model_id).tokenizer
    if body.add_special_tokens is False and body.messages is None and tokenizer is not None:
        tokens = without_added(tokens, tokenizer.encode(""))
    return Tokens(count=len(tokens), max_model_len=context_of(service, model_id) or 0, tokens=tokens)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, service: ServiceOf) -> Text:
    """Return the text of tokens."""
    tokenizer = service.engine.model(service.first_or(body.model)).tokenizer
    if tokenizer is None:
        raise InvalidInput("tokens: this model came without a tokenizer")
    return Text(prompt=tokenizer.decode(body.tokens))


@router.get("/tokenizer_info")
async def tokenizer_info(service: ServiceOf, model: str | None = None) -> TokenizerInfo:
    """Return the special tokens that a model's files name, and its chat template."""
    template = service.templates.get(service.first_or(model))
    special = {} if template is None else template.special
    return TokenizerInfo(
        bos_token=special.get("bos_token"),
        eos_token=special.get("eos_token"),
        pad_token=special.get("pad_token"),
        chat_template=None if template is None else template.source,
    )
