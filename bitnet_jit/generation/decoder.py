"""`Decoder`: a network with its tokenizer, which continues prompts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.generation.loop import generate, stream
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.network import Network
from bitnet_jit.models.packed import PackedBlock
from bitnet_jit.models.tokens import TokenIds

if TYPE_CHECKING:
    from bitnet_jit.nn.rms_norm import RMSNorm


class Decoder(Network):
    """A BitNet or Llama decoder with packed ternary weights; `bitnet_jit.load` makes one from a checkpoint.

    Args:
        config: its architecture.
        embedding: (vocab_size, hidden_size), of floats, or of int8 where it is the head too.
        blocks: `config.num_layers` of them.
        norm: of the last block's output.
        head: (vocab_size, hidden_size), of floats or int8, or None where the embedding is the head too.
        dtype: of activations, keys and values: float32 or bfloat16.
        tokenizer: between text and token ids, or None.
        head_scale: (vocab_size,) float32, the scales of a head of int8; else None.

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

    def __init__(
        self,
        config: DecoderConfig,
        embedding: torch.Tensor,
        blocks: Sequence[PackedBlock],
        norm: "RMSNorm",
        head: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        tokenizer: Tokenizer | None = None,
        head_scale: torch.Tensor | None = None,
    ) -> None:
        super().__init__(config, embedding, blocks, norm, head, dtype, head_scale)
        self.tokenizer = tokenizer

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
            max_new_tokens: limit of new tokens; with the prompt they must fit the context. None is 128, or what fits.
            temperature: 0 takes the likeliest token, more makes the text more varied.
            top_k: draw from the k likeliest tokens only.
            top_p: draw from the likeliest tokens that together reach this probability.
            seed: makes the draws repeatable; torch's global random state plays no part.
            stop: token ids or strings that end a text, besides the model's end token. A string is looked for in the new
                text, with special tokens and without; one that is a special token ends the text there. A lone surrogate
                counts as U+FFFD.

        Returns:
            int64 (B, T + n) or (T + n,): the prompt, and n new tokens with the one that ended the text. A row that
            ended early is filled up with its last token.

        Raises:
            InvalidInput: a value is out of range; it is named.
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
        """Yield the new tokens of one prompt, each as soon as it is chosen; arguments and errors as `generate`."""
        return stream(self, input_ids, max_new_tokens, Sampling(temperature, top_k, top_p, seed), stop)
