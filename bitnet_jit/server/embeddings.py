"""POST /v1/embeddings."""

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response

from bitnet_jit.engine.embeddings.embedding import Embedding
from bitnet_jit.errors import InvalidInput
from bitnet_jit.server.answers import EmbeddingItem, EmbeddingResponse, EmbeddingUsage
from bitnet_jit.server.requests import EmbeddingRequest
from bitnet_jit.server.service import Service, ServiceOf
from bitnet_jit.server.sse import unless_gone
from bitnet_jit.server.texts import check_lengths, tokens_of

MAX_INPUTS = 2048  # OpenAI's
ENGINES_NAME = re.compile("^(input_ids|prompt|max_new_tokens): ")  # of what clients call input
router = APIRouter()


@router.post("/v1/embeddings", response_model=EmbeddingResponse)
async def create_embeddings(body: EmbeddingRequest, request: Request, service: ServiceOf) -> Response:
    """Turn texts into vectors of length 1, pooled of the last hidden states as the model says, else by the mean."""
    try:
        texts = await inputs_of(service, body)
        vectors = await unless_gone(embed(service, body, texts), request)
    except InvalidInput as error:
        raise InvalidInput(ENGINES_NAME.sub("input: ", str(error))) from None
    tokens = sum(map(len, texts))
    data = [
        EmbeddingItem(index=index, embedding=written(shortened(vector, body.dimensions), body.encoding_format))
        for index, vector in enumerate(vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    answer = EmbeddingResponse(data=data, model=body.model, usage=usage)
    return Response(answer.model_dump_json(), media_type="application/json")


async def inputs_of(service: Service, body: EmbeddingRequest) -> list[list[int]]:
    """Return the tokens of each text, whatever form it came in; InvalidInput where there is none."""
    given: Any = body.input
    if not given:
        raise InvalidInput(f"input: expected at least one character or token, got {given!r}")
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    if len(given) > MAX_INPUTS:
        raise InvalidInput(f"input: expected at most {MAX_INPUTS} texts, got {len(given)}")
    module = service.engine.model(body.model).module
    most = getattr(getattr(module, "config", None), "hidden_size", None)
    if body.dimensions is not None and most is not None and body.dimensions > most:
        raise InvalidInput(f"dimensions: expected at most {most}, which this model has, got {body.dimensions}")
    texts = [await tokens_of(service, body.model, item) if isinstance(item, str) else item for item in given]
    check_lengths(service, texts, "input")
    return texts


async def embed(service: Service, body: EmbeddingRequest, texts: Sequence[list[int]]) -> list[torch.Tensor]:
    """Return the vectors of texts, as many of which wait at a time as a request may have; on a failure none remains."""
    vectors: list[torch.Tensor] = []
    for first in range(0, len(texts), service.limits.texts):
        handles: list[Embedding] = []
        try:
            for text in texts[first : first + service.limits.texts]:
                user, seconds = body.user or "", service.limits.request_s
                handles.append(service.engine.submit_embedding(body.model, text, user, seconds))
            service.watch.add(body.model, handles)
            vectors += await asyncio.gather(*handles)
        finally:
            for handle in handles:  # of no effect on those that have ended
                handle.cancel()
    return vectors


def shortened(vector: torch.Tensor, dimensions: int | None) -> torch.Tensor:
    """Return the first components of a vector, made of length 1 again.

    >>> shortened(torch.tensor([0.6, 0.0, 0.8]), 2)
    tensor([1., 0.])
    """
    if dimensions is None or dimensions >= len(vector):
        return vector
    first = vector[:dimensions].double()
    scaled: torch.Tensor = first / first.norm().clamp_(min=1e-30)
    return scaled.float()


def written(vector: torch.Tensor, encoding: str | None) -> list[float] | str:
    """Return a vector as numbers, or its float32 in little-endian order as base64."""
    if encoding == "base64":
        return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
    return list(map(float, vector.tolist()))
