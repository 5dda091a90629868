"""`Service`: what the routes of one app share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, Request

from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.errors import InvalidInput
from bitnet_jit.server.limits import Limits
from bitnet_jit.server.metrics import Metrics
from bitnet_jit.server.token_texts import TokenTexts
from bitnet_jit.server.watch import Watch

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine


@dataclass(frozen=True)
class Service:
    """An engine, and what the server knows beside it.

    Attributes:
        engine: serves the models.
        templates: of chats, by the ids of models.
        limits: of requests.
        metrics: what has been served.
        watch: looks at the workers.
        created: when the server began, in seconds of the Unix clock.
        speculate: "ngram" guesses tokens of each text, None does not; texts stay the same.
        texts: of tokens, by the ids of models; filled when first needed.
    """

    engine: "InferenceEngine | Any"
    templates: Mapping[str, ChatTemplate]
    limits: Limits
    metrics: Metrics
    watch: Watch
    created: int
    speculate: Literal["ngram"] | None = None
    texts: dict[str, TokenTexts] = field(default_factory=dict)

    def token_texts(self, model_id: str) -> TokenTexts:
        """Return the texts of a model's tokens."""
        if model_id not in self.texts:
            self.texts[model_id] = TokenTexts(self.engine.model(model_id).tokenizer)
        return self.texts[model_id]

    def first_or(self, model_id: str | None) -> str:
        """Return the id of a model, that of the first one for None; ModelNotFound where there is none."""
        if model_id is None:
            model_id = next(iter(self.engine.models), "")
        self.engine.model(model_id)
        return model_id

    def template(self, model_id: str) -> ChatTemplate:
        """Return the chat template of a model; ModelNotFound, or InvalidInput where it has none."""
        self.engine.model(model_id)
        if model_id not in self.templates:
            raise InvalidInput(
                f"messages: the model {model_id} came without a chat template; use /v1/completions, or start the "
                "server with --chat-template FILE"
            )
        return self.templates[model_id]


async def service_of(request: Request) -> Service:
    """Return the service of the app that a request has come to; async, since FastAPI would call it in a thread."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
