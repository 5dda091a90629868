"""`EmbeddingCalls`: vectors of texts by an engine, many at a time."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from bitnet_jit.engine.embeddings.asking import embed_all, make_embedding_request
from bitnet_jit.engine.embeddings.embedding import Embedding
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.asking import Prompt

if TYPE_CHECKING:
    from bitnet_jit.engine.models.store import ModelStore


class EmbeddingCalls:
    """The calls of an engine that give vectors; all of them are requests of `submit_embedding`."""

    config: EngineConfig
    _store: "ModelStore"

    def submit_embedding(
        self, model_id: str, prompt: Prompt, client: str = "", timeout_s: float | None = None
    ) -> Embedding:
        """Ask for the embedding of a text; return its handle at once; arguments and errors are those of `submit`."""
        from bitnet_jit.engine.models.model import text_parts  # a long chain of modules

        with self._store.starting(model_id) as held:
            decoder, replica = text_parts(held.model)
            request, handle = make_embedding_request(decoder, prompt, replica.num_pages, client, timeout_s)
            request.ended = partial(self._store.end, held)
            replica.submit(request)
        return handle

    def embed(self, model_id: str, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the embeddings of texts, each pooled of its last hidden states as the model says, else by the mean.

        Args:
            model_id: a decoder's name.
            prompts: texts, or token ids.

        Returns:
            (n, hidden_size) float32 on the CPU, each of length 1; a row is the same bits whatever stands beside it.

        Raises:
            InvalidInput, ModelNotFound, QueueFull, EngineClosed: as in `submit`; what has begun is cancelled.

        >>> import bitnet_jit
        >>> from bitnet_jit.engine import InferenceEngine
        >>> with InferenceEngine() as engine:
        ...     model = engine.add_model("tiny", bitnet_jit.load())
        ...     engine.embed("tiny", ["Isaac begat Jacob.", "And Jacob begat Joseph."]).shape
        torch.Size([2, 384])
        """
        return embed_all(partial(self.submit_embedding, model_id), prompts, self.config.max_running)

    async def embed_async(self, model_id: str, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Do as `embed` does, in a thread."""
        return await asyncio.to_thread(self.embed, model_id, prompts)
