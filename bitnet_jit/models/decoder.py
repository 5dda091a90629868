"""`Decoder`: token ids in, logits out, with ternary linear layers in between; and the text that it continues."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit.arguments import whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.loop import generate, stream
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.generation.tokens import TokenIds, as_batch
from bitnet_jit.models.block import Block
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.head import project
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.models.precision import without_autocast
from bitnet_jit.models.rope import Rope
from bitnet_jit.nn.rms_norm import RMSNorm

MAX_PROMPTS = 2**31 - 1  # in a batch


class Decoder(nn.Module):
    """A BitNet or Llama decoder with packed ternary weights; `bitnet_jit.load` makes one from a checkpoint.

    Args:
        config: its architecture.
        embedding: (vocab_size, hidden_size), of the checkpoint's dtype.
        blocks: `config.num_layers` of them.
        norm: of the last block's output.
        head: (vocab_size, hidden_size), or None where the embedding is the head too.
        dtype: of activations, keys and values: float32 or bfloat16.
        tokenizer: between text and token ids, or None.

    Attributes:
        config: as above.
        dtype: as above.
        tokenizer: as above.

    >>> import bitnet_jit
    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> decoder = bitnet_jit.load(embedded_model())
    >>> prompt = decoder.tokenizer.encode("And it came to pass ")
    >>> decoder([prompt]).shape
    torch.Size([1, 20, 256])
    >>> bytes(decoder.stream(prompt, stop="days")).decode()
    'after the days'
    >>> decoder.generate([prompt, prompt], max_new_tokens=5).shape
    torch.Size([2, 25])
    """

    head: nn.Parameter | None

    def __init__(
        self,
        config: DecoderConfig,
        embedding: torch.Tensor,
        blocks: Sequence[Block],
        norm: RMSNorm,
        head: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype, self.tokenizer = config, dtype, tokenizer
        self.embedding = nn.Parameter(embedding, requires_grad=False)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.register_parameter("head", None if head is None else nn.Parameter(head, requires_grad=False))
        self.rope = Rope(config)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.embedding.device

    def forward(self, input_ids: TokenIds, cache: KVCache | None = None) -> torch.Tensor:
        """The logits of the token that follows each token.

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
        """An empty cache for `batch_size` prompts, with room for `capacity` tokens before it has to grow.

        Raises:
            InvalidInput: a number is out of range, the capacity is above the model's context, or memory does not
                suffice.
        """
        prompts = whole_number("batch_size", batch_size, most=MAX_PROMPTS)
        tokens = whole_number("capacity", capacity, most=self.config.context_length)
        return KVCache(self.config, prompts, tokens, self.dtype, self.device)

    def hidden(self, input_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The normalized output of the last block: input_ids (B, T) int64, in range -> (B, T, hidden)."""
        batch_size, tokens = input_ids.shape
        if batch_size != cache.batch_size:
            raise InvalidInput(f"cache: is for {cache.batch_size} prompts, input_ids has {batch_size}")
        with torch.no_grad(), without_autocast(self.device):
            cache.reserve(tokens)
            tables = self.rope.tables(cache.length, cache.length + tokens, self.device, self.dtype)
            x = F.embedding(input_ids, self.embedding).to(self.dtype)
            for layer, block in enumerate(self.blocks):
                x = block(x, tables, cache, layer)
            cache.advance(tokens)
            normalized: torch.Tensor = self.norm(x)
            return normalized

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (..., hidden_size), normalized -> (..., vocab_size) float32."""
        with torch.no_grad(), without_autocast(self.device):
            return project(hidden, self.embedding if self.head is None else self.head)

    def generate(
        self,
        input_ids: TokenIds,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Stop = (),
    ) -> torch.Tensor:
        """Continue prompts of equal length.

        Numbers may be Python's, NumPy's, or tensors of no dimension.

        Args:
            input_ids: (B, T) or (T,) integers: a tensor, or lists.
            max_new_tokens: most tokens to add; with the prompt they must fit the context. None is 128, or what fits.
            temperature: 0 takes the likeliest token, more makes the text more varied.
            top_k: draw from the k likeliest tokens only.
            top_p: draw from the likeliest tokens that together reach this probability.
            seed: makes the draws repeatable; torch's global random state plays no part.
            stop: token ids or strings that end a text, besides the model's own end token. A string is looked for in
                what was written, with special tokens and without; one that is a special token ends the text there. A
                lone surrogate counts as U+FFFD.

        Returns:
            int64 (B, T + n) or (T + n,): the prompt, and n new tokens with the one that ended the text. A row that
            ended early is filled up with its last token.

        Raises:
            InvalidInput: a value that cannot be meant; it is named.
        """
        return generate(self, input_ids, max_new_tokens, Sampling(temperature, top_k, top_p, seed), stop)

    def stream(
        self,
        input_ids: TokenIds,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Stop = (),
    ) -> Iterator[int]:
        """The new tokens of one prompt, each as soon as it is chosen; arguments and errors as `generate`."""
        return stream(self, input_ids, max_new_tokens, Sampling(temperature, top_k, top_p, seed), stop)
