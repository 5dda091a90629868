"""Text in, text out: a decoder with its tokenizer; each character comes as soon as it is certain."""

from collections.abc import Iterator, Sequence

from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.prompts import encode_prompt
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.speculation import Speculate
from bitnet_jit.generation.stopping import Stop
from bitnet_jit.generation.tokenizer import TextStream


def without_added(tokens: list[int], added: Sequence[int]) -> list[int]:
    """Return tokens without those that the tokenizer puts around every text.

    Args:
        tokens: of a text.
        added: of an empty one: those before a text, then those behind it.

    >>> without_added([1, 1, 7, 8, 2], [1, 2])
    [1, 7, 8]
    """
    for before in range(len(added), -1, -1):
        end = len(tokens) - (len(added) - before)
        if end >= before and tokens[:before] == [*added[:before]] and tokens[end:] == [*added[before:]]:
            return tokens[before:end]
    return tokens


def stream_text(
    decoder: Decoder,
    prompt: str,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Stop = (),
    *,
    sampling: Sampling | None = None,
    speculate: "Speculate | Decoder" = None,
) -> Iterator[str]:
    """Continue a text; the arguments beside the prompt are those of `Decoder.stream`.

    Lone surrogates in the prompt stand for bytes of the command line that are no UTF-8; they count as U+FFFD.

    Yields:
        A piece of text for each new token, "" where it leaves a character unfinished; at last what was held back. The
        model's end token and special tokens are no part of it; a string that ends it is.

    Raises:
        InvalidInput: an argument is out of range; raised at the call.
        CheckpointError: the model's tokenizer.json is damaged.

    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> from bitnet_jit.checkpoints.loading import load
    >>> "".join(stream_text(load(embedded_model()), "And it came to pass ", max_new_tokens=10))
    'after the '
    """
    tokenizer, tokens = encode_prompt(decoder, prompt)
    chosen = decoder.stream(
        tokens, max_new_tokens, temperature, top_k, top_p, seed, stop, sampling=sampling, speculate=speculate
    )

    return pieces(decoder, tokenizer.stream(tokens), chosen)


def pieces(decoder: Decoder, text: TextStream, tokens: Iterator[int]) -> Iterator[str]:
    """Yield the text of tokens as they come; nothing for the model's end token."""
    for token in tokens:
        yield "" if token in decoder.config.eos_ids else text.push(token)
    yield text.finish()
