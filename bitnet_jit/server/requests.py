"""What clients send: OpenAI's objects as Pydantic models.

A field that is not here is refused by name, so that nothing is ignored in silence. `store`, `metadata` and
`service_tier` are taken although they have no effect here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Prompt = str | list[str] | list[TokenId] | list[list[TokenId]]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Body(BaseModel):
    """A body of a request: no conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options of a stream; `include_obfuscation` has no effect here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """A schema and its name; texts are always held to it, whatever `strict` says."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class AnyText(Body):
    """Texts as they come."""

    type: Literal["text"]


class AnyObject(Body):
    """Texts that are JSON objects."""

    type: Literal["json_object"]


class BySchema(Body):
    """Texts that are JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[AnyText | AnyObject | BySchema, Field(discriminator="type")]


class TextRequest(Body):
    """What requests for text have in common; null is the same as nothing."""

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, description="The model's own by default, else 1.")] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31, description="-1 and 0: no limit.")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: Annotated[bool, Field(description="Write on behind the end token, to the limit.")] | None = None
    response_format: ResponseFormat | None = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None


class CompletionRequest(TextRequest):
    """The body of POST /v1/completions."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class ChatRequest(TextRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbeddingRequest(Body):
    """The body of POST /v1/embeddings."""

    model: str
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[str, Field(max_length=256)] | None = None


class TokenizeRequest(Body):
    """The body of POST /tokenize: a prompt, or the messages of a chat. The model is the first unless it is named."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] | None = None


class DetokenizeRequest(Body):
    """The body of POST /detokenize. The model is the first unless it is named."""

    model: str | None = None
    tokens: list[TokenId]
