"""`Decoder`: a network with its tokenizer, which continues prompts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.encoding import encode
from bitnet_jit.generation.loop import generate, stream
from bitnet_jit.generation.prompts import Continued
from bitnet_jit.generation.sampling import Sampling, gather_options
from bitnet_jit.generation.speculation import Speculate
from bitnet_jit.generation.stopping import Stop
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.head import Stored
from bitnet_jit.models.network import Network
from bitnet_jit.models.packed import PackedBlock
from bitnet_jit.models.tokens import TokenIds
from bitnet_jit.runner.idle import IdleRunner

if TYPE_CHECKING:
    from bitnet_jit.nn.rms_norm import RMSNorm


class Decoder(Network):
    """A BitNet or Llama decoder with packed ternary weights; `bitnet_jit.load` makes one from a checkpoint.

    Args:
        config: its architecture.
        embedding: (vocab_size, hidden_size), of floats, or of int8 or packed where it is the head too.
        blocks: `config.num_layers` of them.
        norm: of the last block's output.
        head: (vocab_size, hidden_size), of floats, int8 or packed, or None where the embedding is the head too.
        dtype: of activations: float32 or bfloat16.
        tokenizer: between text and token ids, or None.
        head_scale: (vocab_size,) float32, the scales of a head of int8; else None.
        cache_dtype: of keys and values that are kept: floats, or int8; None: that of activations.
        defaults: how the model's makers would have tokens chosen; None: they say nothing.
        pooling: how texts become vectors: "mean", "cls" or "last"; None: the model's files do not say.

    Attributes:
        config: as above.
        dtype: as above.
        tokenizer: as above.
        defaults: as above; `sampling=decoder.defaults.sampling()` makes a call follow them.
        pooling: as above.
        idle_runner: what the last call left for the next one.

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
        embedding: Stored,
        blocks: Sequence[PackedBlock],
        norm: "RMSNorm",
        head: Stored | None = None,
        dtype: torch.dtype = torch.float32,
        tokenizer: Tokenizer | None = None,
        head_scale: torch.Tensor | None = None,
        cache_dtype: torch.dtype | None = None,
        defaults: Defaults | None = None,
        pooling: str | None = None,
    ) -> None:
        super().__init__(config, embedding, blocks, norm, head, dtype, head_scale, cache_dtype)
        self.tokenizer, self.defaults, self.pooling = tokenizer, defaults or Defaults(), pooling
        self.idle_runner = IdleRunner()

    def generate(
        self,
        input_ids: TokenIds,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Stop = (),
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        attention_mask: torch.Tensor | None = None,
        speculate: "Speculate | Decoder" = None,
    ) -> Continued:
        """Continue prompts, of equal length or not; each text has its own end.

        Args:
            input_ids: (B, T) or (T,) integers: a tensor, or lists. Lists in a list may be of unequal lengths.
            max_new_tokens: limit of new tokens; with the prompt they must fit the context. None is 128, or what fits.
            temperature, top_k, top_p, seed: as in `Sampling`: the likeliest token, whatever `defaults` say, unless
                others are given. Equal prompts with one seed get equal texts.
            stop: token ids or strings that end a text, besides the model's end token. A string is looked for in the new
                text, with special tokens and without; one that is a special token ends the text there. A lone surrogate
                counts as U+FFFD.
            sampling: all options in place of those four, penalties among them; or one for each prompt.
            attention_mask: (B, T) zeros and ones for prompts that are padded on the left of a tensor: 1 in a prompt.
            speculate: guesses tokens, which one step verifies: "ngram", a smaller decoder of the same vocabulary, or a
                `Speculation`, which counts right guesses. The text stays the same.

        Returns:
            int64 (B, T + n) or (T + n,): the prompt, and n new tokens with the one that ended the text. A row that
            ended early is filled up with its last token. For lists of unequal lengths: a list of B tensors.

        Raises:
            InvalidInput: a value is out of range; it is named. Numbers may be Python's, NumPy's, or tensors.
            GenerationError: a text met logits that are NaN or infinite, or no token is left; it holds the other texts.
        """
        options = gather_options(temperature, top_k, top_p, seed, sampling)
        return generate(self, input_ids, max_new_tokens, options, stop, attention_mask, speculate)

    def stream(
        self,
        input_ids: TokenIds,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Stop = (),
        *,
        sampling: Sampling | None = None,
        speculate: "Speculate | Decoder" = None,
    ) -> Iterator[int]:
        """Yield the new tokens of one prompt, each as soon as it is chosen; arguments and errors as `generate`."""
        options = gather_options(temperature, top_k, top_p, seed, sampling)
        return stream(self, input_ids, max_new_tokens, options, stop, speculate)

    def encode(self, prompts: Sequence[str | TokenIds], pooling: str | None = None) -> torch.Tensor:
        """Turn texts into vectors, which lie near for texts alike where a model was trained for it.

        Args:
            prompts: texts, with what the model's tokenizer puts around each, or token ids as they are.
            pooling: "mean" over the hidden states of all tokens, or the state of the first ("cls") or the "last" one;
                None: as the model's files say.

        Returns:
            (n, hidden_size) float32 on the CPU, each of length 1; a row is the same bits whatever stands beside it.

        Raises:
            InvalidInput: there is no text, one does not fit the context or the vocabulary, or neither the argument nor
                the files say how to pool.
            GenerationError: hidden states are NaN or infinite.

        >>> import bitnet_jit
        >>> vectors = bitnet_jit.load().encode(["Isaac begat Jacob.", "And Jacob begat Joseph."], pooling="mean")
        >>> vectors.shape
        torch.Size([2, 384])
        """
        return encode(self, prompts, pooling)
