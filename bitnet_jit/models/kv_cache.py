"""Keys and values of the tokens seen so far: with them, a new token computes only its own keys and values."""

import math

import torch

from bitnet_jit.devices.memory import allocating
from bitnet_jit.models.config import DecoderConfig

MIN_CAPACITY = 64  # tokens


class KVCache:
    """Keys and values of every layer, preallocated; the capacity doubles when it is full.

    Args:
        config: the decoder's.
        batch_size: prompts that are continued together.
        capacity: tokens to make room for at once.
        dtype: of keys and values.
        device: where they live.

    Raises:
        InvalidInput: memory does not suffice, here or in `reserve`.
    """

    def __init__(
        self, config: DecoderConfig, batch_size: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.length = 0
        self._limit = config.context_length
        rows = self._rounded(capacity)
        shape = (config.num_layers, 2, batch_size, config.num_kv_heads, rows, config.head_dim)
        self._storage = empty(shape, dtype, device)

    @property
    def batch_size(self) -> int:
        """Return the number of prompts."""
        return self._storage.shape[2]

    @property
    def capacity(self) -> int:
        """Return the number of tokens that fit without a further allocation."""
        return self._storage.shape[4]

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return self._storage.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more."""
        needed = self.length + tokens
        if needed > self.capacity:
            *before, _, width = self._storage.shape
            grown = empty((*before, self._rounded(needed), width), self._storage.dtype, self._storage.device)
            grown[:, :, :, :, : self.length] = self._storage[:, :, :, :, : self.length]
            self._storage = grown

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values (B, T, kv_heads, D) behind the old ones; `reserve` has made room.

        Returns:
            Views of all keys and values so far, each (B, kv_heads, length + T, D).
        """
        stop = self.length + keys.shape[1]
        all_keys, all_values = self._storage[layer, :, :, :, :stop].unbind()
        all_keys[:, :, self.length :].copy_(keys.transpose(1, 2))
        all_values[:, :, self.length :].copy_(values.transpose(1, 2))
        return all_keys, all_values

    def advance(self, tokens: int) -> None:
        """Count `tokens` as seen; every layer has put them before."""
        self.length += tokens

    def _rounded(self, tokens: int) -> int:
        """Round up to a power of two, but to no more than a context."""
        return min(max(MIN_CAPACITY, 1 << max(tokens - 1, 0).bit_length()), max(self._limit, tokens))


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate storage (layers, 2, B, kv_heads, capacity, D), not initialized; InvalidInput where it does not fit."""
    if torch.compiler.is_compiling():  # which asks no system for its memory
        return torch.empty(shape, dtype=dtype, device=device)
    words = f"batch_size, capacity: a cache for {shape[2]} prompts of {shape[4]} tokens"
    with allocating(words, math.prod(shape) * dtype.itemsize, device.type):
        return torch.empty(shape, dtype=dtype, device=device)
