"""`TextModel`: the part of a decoder that generation needs."""

from typing import Protocol

import torch

from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.kv_cache import KVCache


class TextModel(Protocol):
    """A network that continues token ids, and the tokenizer that strings to stop at are read by.

    Attributes:
        config: the architecture; its vocabulary, context and end tokens count here.
        tokenizer: between text and token ids, or None.
    """

    config: DecoderConfig
    tokenizer: Tokenizer | None

    @property
    def device(self) -> torch.device:
        """Return the device of token ids."""
        ...

    def new_cache(self, batch_size: int = 1, capacity: int = 1) -> KVCache:
        """Return an empty cache for so many prompts of so many tokens."""
        ...

    def hidden(self, input_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Compute the output of the last block: input_ids (B, T) int64 -> (B, T, hidden)."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project hidden (..., hidden) -> (..., vocab_size) float32."""
        ...
