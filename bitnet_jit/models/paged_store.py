"""Keys and values in pages, and states of other layers, bound to the tokens of one step: where each of them lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.devices.huge_pages import HUGE_PAGES
from bitnet_jit.devices.memory import allocating
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.recurrent_states import States
from bitnet_jit.ops.attention import paged_attention
from bitnet_jit.ops.delta_net import delta_net
from bitnet_jit.problem import PAGE


@dataclass(frozen=True)
class Places:
    """The places of a step's T tokens, which belong to R sequences, as int32 tensors.

    Attributes:
        positions: (T,) of each token in its sequence; -1 for a token that only fills up the step.
        starts: (R + 1,): tokens starts[r] to starts[r + 1] - 1 are of sequence r, at consecutive positions.
        tables: (R, M): the pages of a sequence, in order.
        slots: (R,): the slot of a sequence's states; used by models that have some.
    """

    positions: torch.Tensor
    starts: torch.Tensor
    tables: torch.Tensor
    slots: torch.Tensor


@dataclass(frozen=True)
class Pages:
    """The pages of a cache, layer by layer.

    Attributes:
        keys: (pages, kv_heads, D, PAGE).
        values: (pages, kv_heads, PAGE, D).
        key_scale, value_scale: (pages, kv_heads, PAGE) float32 beside codes of int8; no layers beside floats.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    key_scale: Sequence[torch.Tensor] = ()
    value_scale: Sequence[torch.Tensor] = ()

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all tensors; the first dimension of each is that of pages."""
        return (*self.keys, *self.values, *self.key_scale, *self.value_scale)

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy pages (from, to)."""
        before, after = torch.tensor(copies, device=self.keys[0].device).T
        for tensor in self.tensors:
            tensor[after] = tensor[before]


@dataclass(frozen=True)
class PagedStore:
    """A `KVStore` of pages and states.

    Attributes:
        pages: of the cache.
        rotary: cosines and sines of positions, float32 (C, D); (2, C, D) where local layers have others, the last ones.
        places: of the step's tokens.
        states: of the cache; None for a model that has attention alone.
    """

    pages: Pages
    rotary: torch.Tensor
    places: Places
    states: States | None = None

    def attend(self, layer: int, qkv: torch.Tensor, is_local: bool = False) -> torch.Tensor:
        """Rotate heads, keep keys and values, and attend: qkv (T, (H + 2 * kv_heads) * D) -> (T, H * D)."""
        at, pages = self.places, self.pages
        rotary = self.rotary if self.rotary.dim() == 2 else self.rotary[int(is_local)]
        keys, values = pages.keys[layer], pages.values[layer]
        scales = (pages.key_scale[layer], pages.value_scale[layer]) if pages.key_scale else (None, None)
        y: torch.Tensor = paged_attention(qkv, keys, values, rotary, at.positions, at.starts, at.tables, *scales)
        return y

    def recur(self, layer: int, mixed: torch.Tensor, gates: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Run a gated DeltaNet on its projections: mixed (T, C), gates (T, 2 heads) -> (T, value_features)."""
        at, states = self.places, self.states
        assert states is not None, "of a model without such layers"
        history, sums = states.history[layer], states.sums[layer]
        y: torch.Tensor = delta_net(mixed, gates, *weights, history, sums, at.positions, at.starts, at.slots)
        return y


@dataclass(frozen=True)
class PageShape:
    """The shape of a cache's pages.

    Attributes:
        layers, heads, width: of the decoder: layers of attention, heads of keys, and numbers of a head.
        pages: number of pages.
        dtype: of keys and values.
    """

    layers: int
    heads: int
    width: int
    pages: int
    dtype: torch.dtype

    @property
    def scaled(self) -> bool:
        """Return whether pages have scales beside them."""
        return self.dtype == torch.int8

    @property
    def num_bytes(self) -> int:
        """Return the size of all tensors.

        >>> [PageShape(30, 5, 128, 1, dtype).num_bytes // PAGE for dtype in (torch.int8, torch.bfloat16)]
        [39600, 76800]
        """
        per_head = self.width * self.dtype.itemsize + 4 * self.scaled
        return 2 * self.layers * self.pages * self.heads * PAGE * per_head

    @classmethod
    def of(cls, config: DecoderConfig, pages: int, dtype: torch.dtype) -> "PageShape":
        """Return the shape of a decoder's pages."""
        return cls(config.attends.count(True), config.num_kv_heads, config.head_dim, pages, dtype)

    def empty(self, device: torch.device) -> Pages:
        """Allocate pages that are not initialized."""
        keys = self._layers((self.width, PAGE), self.dtype, device)
        values = self._layers((PAGE, self.width), self.dtype, device)
        scales = [self._layers((PAGE,), torch.float32, device) for _ in range(2)] if self.scaled else [(), ()]
        return Pages(keys, values, *scales)

    def _layers(self, last: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Sequence[torch.Tensor]:
        """Allocate a tensor (pages, heads, *last) for each layer: on a CPU all in one, for the sake of huge pages."""
        shape = (self.pages, self.heads, *last)
        if device.type != "cpu" or torch.compiler.is_compiling():
            return [torch.empty(shape, dtype=dtype, device=device) for _ in range(self.layers)]
        return HUGE_PAGES.empty((self.layers, *shape), dtype, device, alone=True).unbind()


def empty_pages(words: str, config: DecoderConfig, pages: int, dtype: torch.dtype, device: torch.device) -> Pages:
    """Allocate the pages of a cache, not initialized.

    Args:
        words: what is asked for, in an error.
        config: the decoder's.
        pages: number of pages.
        dtype: of keys and values.
        device: where they live.

    Raises:
        InvalidInput: memory does not suffice.
    """
    shape = PageShape.of(config, pages, dtype)
    if torch.compiler.is_compiling():  # which asks no system for its memory
        return shape.empty(device)
    with allocating(words, shape.num_bytes, device.type):
        return shape.empty(device)
