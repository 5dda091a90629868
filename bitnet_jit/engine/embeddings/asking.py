"""How requests for embeddings are made, and many of them answered."""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from bitnet_jit.engine.embeddings.embedding import Embedding
from bitnet_jit.engine.text.asking import Prompt, check_pages, set_terms
from bitnet_jit.engine.text.request import Request
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.prompts import as_ids, check_texts
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import StopRule
from bitnet_jit.models.pooling import MEAN, Pool


def embed_all(submit: Callable[[Prompt], Embedding], prompts: Sequence[Prompt], at_once: int) -> torch.Tensor:
    """Return the embeddings of texts, (n, hidden_size) float32; so many wait at a time. InvalidInput for no texts."""
    check_texts(prompts)
    vectors: list[torch.Tensor] = []
    for first in range(0, len(prompts), at_once):
        handles: list[Embedding] = []
        try:
            for prompt in prompts[first : first + at_once]:
                handles.append(submit(prompt))
            vectors += [handle.result() for handle in handles]
        finally:
            for handle in handles:  # of no effect on those that have ended
                handle.cancel()
    return torch.stack(vectors)


def make_embedding_request(
    decoder: Decoder,
    prompt: Prompt,
    pages: int,
    client: str,
    timeout_s: float | None,
) -> tuple[Request, Embedding]:
    """Return a request with its handle.

    Raises:
        InvalidInput: an argument is out of range, or the text does not fit the model's context or the pages.
    """
    ids = as_ids(decoder, 0, prompt)
    handle = Embedding(len(ids), lambda: request.cancel())
    pool = Pool(decoder.pooling or MEAN)
    rule, waiting = StopRule(frozenset(), ()), cast(Any, handle)
    request = Request(ids, len(ids), 0, rule, Sampling(), waiting, time.monotonic(), pool=pool)
    check_pages(request, pages)
    set_terms(request, 0, client, timeout_s)
    return request, handle
