"""Keys, values and states of prompts that are continued together: with them, a new token computes only its own."""

import torch

from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.paged_store import PagedStore, Pages, Places, empty_pages
from bitnet_jit.models.recurrent_states import empty_states
from bitnet_jit.problem import PAGE, pages_for


class KVCache:
    """Keys and values, or states, of every layer, for prompts of one length; the capacity doubles when it is full.

    Prompt b has the pages b * M to b * M + M - 1. `runner/paged_cache.py` is for sequences of any length.

    Args:
        config: the decoder's.
        batch_size: prompts that are continued together.
        capacity: tokens to make room for at once.
        dtype: of keys and values.
        device: where they live.
        state_dtype: of activations, where states keep some; None: that of keys and values.

    Attributes:
        pages: keys and values, and their scales where they are int8.
        states: of prompt b in slot b; None where all layers have attention.

    Raises:
        InvalidInput: memory does not suffice, here or in `reserve`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self.length, self.batch_size = 0, batch_size
        self._config, self._dtype, self._device = config, dtype, device
        self._count = self._pages_for(capacity)
        self.pages = self._empty(self._count)
        words = f"batch_size: the states of {batch_size} prompts"
        self.states = empty_states(words, config, batch_size, state_dtype or dtype, device)

    @property
    def capacity(self) -> int:
        """Return the number of tokens that fit without a further allocation."""
        return self._count * PAGE

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return self.pages.num_bytes + (0 if self.states is None else self.states.num_bytes)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more."""
        if self.length + tokens > self.capacity:
            count = self._pages_for(self.length + tokens)
            pages = self._empty(count)
            for before, after in zip(self.pages.tensors, pages.tensors, strict=True):
                by_prompt = after.unflatten(0, (self.batch_size, count))
                by_prompt[:, : self._count] = before.unflatten(0, (self.batch_size, self._count))
            self.pages, self._count = pages, count

    def store(self, tokens: int, rotary: torch.Tensor) -> PagedStore:
        """Return the store of a step that adds `tokens` to each prompt; `reserve` has made room."""
        device, batch = rotary.device, self.batch_size
        new = torch.arange(self.length, self.length + tokens, dtype=torch.int32, device=device)
        starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * tokens
        tables = torch.arange(batch * self._count, dtype=torch.int32, device=device).view(batch, -1)
        slots = torch.arange(batch, dtype=torch.int32, device=device)
        return PagedStore(self.pages, rotary, Places(new.repeat(batch), starts, tables, slots), self.states)

    def advance(self, tokens: int) -> None:
        """Count `tokens` as seen; every layer has put them before."""
        self.length += tokens

    def _pages_for(self, tokens: int) -> int:
        """Return the pages per prompt: a power of two, but no more than a context needs."""
        needed, context = pages_for(tokens), pages_for(self._config.context_length)
        return min(1 << max(needed - 1, 0).bit_length(), max(context, needed))

    def _empty(self, pages: int) -> Pages:
        """Allocate pages for all prompts."""
        words = f"batch_size, capacity: a cache for {self.batch_size} prompts of {pages * PAGE} tokens"
        return empty_pages(words, self._config, self.batch_size * pages, self._dtype, self._device)
