"""`Network`: token ids in, logits out, with packed ternary layers in between; no text, no sampling."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from bitnet_jit.arguments import whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.attention import KVStore
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.head import DenseTable, Stored, Table, table_of
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.models.packed import PackedBlock, Stream
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.models.precision import without_autocast
from bitnet_jit.models.rope import Rope
from bitnet_jit.models.tokens import TokenIds, as_batch
from bitnet_jit.ops.norm import add_rms_norm

if TYPE_CHECKING:
    from bitnet_jit.nn.rms_norm import RMSNorm

DTYPES = (torch.float32, torch.bfloat16)  # of activations
MAX_PROMPTS = 2**31 - 1  # in a batch
MAX_TRACED_LOGITS = 256  # rows of logits that a step is tuned for: a long prompt asks for those of its last token alone


class Network(nn.Module):
    """A BitNet or Llama decoder with packed ternary weights.

    Args:
        config: its architecture.
        embedding: (vocab_size, hidden_size), of floats, or of int8 or packed where it is the head too.
        blocks: `config.num_layers` of them.
        norm: of the last block's output.
        head: (vocab_size, hidden_size), of floats, int8 or packed, or None where the embedding is the head too.
        dtype: of activations: float32 or bfloat16.
        head_scale: (vocab_size,) float32, the scales of a head of int8; else None.
        cache_dtype: of keys and values that are kept: floats, or int8; None: that of activations.

    Attributes:
        config: as above.
        dtype: as above; `.to(dtype)` and methods like it change it with the norms and a head of floats.
    """

    quantizes_for_layers = True  # a packed head is not called where ids are looked up in it: see `bitnet_jit.nn.lora`

    embedding: nn.Parameter | PackedTable
    head: nn.Parameter | PackedTable | None
    head_scale: nn.Parameter | None

    def __init__(
        self,
        config: DecoderConfig,
        embedding: Stored,
        blocks: Sequence[PackedBlock],
        norm: "RMSNorm",
        head: Stored | None = None,
        dtype: torch.dtype = torch.float32,
        head_scale: torch.Tensor | None = None,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype, self.cache_dtype = config, dtype, cache_dtype or dtype
        self.blocks = nn.ModuleList(blocks)
        self._places = [config.place(layer) for layer in range(len(blocks))]
        self.norm = norm
        for name, stored in (("embedding", embedding), ("head", head), ("head_scale", head_scale)):
            if isinstance(stored, PackedTable):
                self.add_module(name, stored)
            else:
                self.register_parameter(name, None if stored is None else nn.Parameter(stored, requires_grad=False))
        self.rope = Rope(config)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.norm.weight.device

    @property
    def tables(self) -> tuple[Table, Table]:
        """Return the embedding, and the head, which may be the same."""
        head = self.embedding if self.head is None else self.head
        return table_of(self.embedding, self.head_scale), table_of(head, self.head_scale)

    def forward(self, input_ids: TokenIds, cache: KVCache | None = None) -> torch.Tensor:
        """Compute the logits of the token that follows each token.

        Args:
            input_ids: (B, T), integers below vocab_size; (T,) counts as (1, T).
            cache: of `new_cache`; holds the tokens before these, and these too afterwards.

        Returns:
            (B, T, vocab_size) float32, the same under autocast as without.

        Raises:
            InvalidInput: input_ids are empty, out of range, no integers, or more than the context has room for.
        """
        room = self.config.context_length - (cache.length if cache is not None else 0)
        batch = as_batch(input_ids, self.config.vocab_size, room, self.device)
        return self.logits(self.hidden(batch, self.new_cache(*batch.shape) if cache is None else cache))

    def new_cache(self, batch_size: int = 1, capacity: int = 1) -> KVCache:
        """Return an empty cache for `batch_size` prompts, with room for `capacity` tokens before it has to grow.

        Raises:
            InvalidInput: a number is out of range, the capacity is above the model's context, or memory does not
                suffice.
        """
        prompts = whole_number("batch_size", batch_size, most=MAX_PROMPTS)
        tokens = whole_number("capacity", capacity, most=self.config.context_length)
        return KVCache(self.config, prompts, tokens, self.cache_dtype, self.device, self.dtype)

    def hidden(self, input_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Compute the normalized output of the last block: input_ids (B, T) int64, in range -> (B, T, hidden)."""
        batch_size, tokens = input_ids.shape
        if batch_size != cache.batch_size:
            raise InvalidInput(f"cache: is for {cache.batch_size} prompts, input_ids has {batch_size}")
        with torch.no_grad():
            cache.reserve(tokens)
            store = cache.store(tokens, self.rope.rotary(cache.length + tokens, self.device))
            y = self.run(input_ids.flatten(), store)
            cache.advance(tokens)
            return y.view(batch_size, tokens, -1)

    def run_to_logits(self, tokens: torch.Tensor, store: KVStore) -> torch.Tensor:
        """Compute the logits behind every token of a step: those of `logits` of what `run` returns, to the bit."""
        with torch.no_grad(), without_autocast(self.device):
            x, delta = self._run_blocks(tokens, store)
            if delta is None:
                return self.logits(self.norm(x))
            _, head = self.tables
            return head.normalized_logits(x, delta, self.norm)

    def run(self, tokens: torch.Tensor, store: KVStore, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the normalized output of the last block for the tokens of a step, of any mix of sequences.

        Args:
            tokens: (T,) integers, in range.
            store: keys and values of the tokens before them; these are put there, too.
            wanted: (W,) int32: the rows that are returned; None: all.

        Returns:
            (W, hidden_size) of the network's dtype.
        """
        with torch.no_grad(), without_autocast(self.device):
            x, delta = self._run_blocks(tokens, store, wanted)
            normalized: torch.Tensor
            if delta is None:
                normalized = self.norm(x)
            else:
                _, normalized = add_rms_norm(x, delta, self.norm.weight, self.norm.eps)
            return normalized

    def _run_blocks(self, tokens: torch.Tensor, store: KVStore, wanted: torch.Tensor | None = None) -> Stream:
        """Run the tokens of a step through all blocks; return the stream of those wanted behind the last one."""
        embedding, _ = self.tables
        stream: Stream = embedding.look_up(tokens, self.dtype), None
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            stream = block(stream, store, self._places[layer], wanted if layer == last else None)
        return stream

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project hidden (..., hidden_size), normalized -> (..., vocab_size) float32."""
        with torch.no_grad(), without_autocast(self.device):
            _, head = self.tables
            return head.logits(hidden)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Convert as `.to()` and `.bfloat16()` do: activations get the dtype, the scales of a head stay float32.

        Raises:
            InvalidInput: activations would get a dtype in which networks do not run; nothing has changed.
        """
        dtype = fn(torch.empty(1, dtype=self.dtype, device=self.device)).dtype
        if dtype not in DTYPES:
            raise InvalidInput(f"dtype: expected torch.float32 or torch.bfloat16, got {dtype}; use .bfloat16()")
        scale = None if self.head_scale is None else self.head_scale.detach()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if scale is not None and self.head_scale is not None and self.head_scale.dtype != scale.dtype:
            self.head_scale.data = scale.to(self.head_scale.device)
        if self.cache_dtype == self.dtype:
            self.cache_dtype = dtype
        self.dtype = dtype
        return self

    def trace_problems(self, rows: Sequence[int], twin: Callable[[Any], Any]) -> None:
        """Run all ops of a step and its head, for one token of each of so many prompts, on "meta" tensors.

        Nothing is computed; a recorder of ops sees each problem that a step poses, as often as the step poses it.

        Args:
            rows: numbers of prompts.
            twin: makes a copy of a module with its parameters on "meta", packed weights in the layout that they have.
        """
        norm, meta = twin(self.norm), torch.device("meta")
        embedding, head = (meta_table(table, twin) for table in self.tables)
        for m in rows:
            embedding.look_up(torch.empty(m, dtype=torch.int64, device=meta), self.dtype)
        for layer, block in enumerate(map(twin, self.blocks)):
            for m in rows:
                x = torch.empty(m, self.config.hidden_size, dtype=self.dtype, device=meta)
                cache = KVCache(self.config, m, 1, self.cache_dtype, meta, self.dtype)
                rotary = torch.empty(1, self.config.head_dim, dtype=torch.float32, device=meta)
                block((x, x if layer else None), cache.store(1, rotary), 0)
        for m in rows:
            x = torch.empty(m, self.config.hidden_size, dtype=self.dtype, device=meta)
            if m <= MAX_TRACED_LOGITS:
                head.normalized_logits(x, x, norm)
            else:
                add_rms_norm(x, x, norm.weight, norm.eps)


def meta_table(table: Table, twin: Callable[[Any], Any]) -> Table:
    """Return a table without its values, on "meta"; `twin` makes one of a packed table."""
    if isinstance(table, PackedTable):
        packed: PackedTable = twin(table)
        return packed
    weight, scale = table
    return DenseTable(weight.to("meta"), None if scale is None else scale.to("meta"))
