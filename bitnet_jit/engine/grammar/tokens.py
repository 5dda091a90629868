"""The library llguidance, and the tokens of a model as it reads them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer import ByteTokenizer
from bitnet_jit.generation.tokenizer_file import FileTokenizer

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

MARKED = b"\xff"  # is in no text; llguidance writes special tokens with it
MARK, MARK_TOKENS = "\x02", 6  # a character that joins no other, and the most tokens that it takes


def library() -> Any:
    """Return llguidance; InvalidInput where it is missing."""
    try:
        import llguidance
    except ImportError:
        raise InvalidInput("grammar: llguidance is missing; install it by: pip install 'bitnet-jit[serve]'") from None
    return llguidance


def width(vocab_size: int, ends: Sequence[int] | frozenset[int]) -> int:
    """Return the number of tokens that llguidance knows: it needs an end token, if need be one more."""
    return vocab_size if ends else vocab_size + 1


def make_tokenizer(decoder: "Decoder") -> Any:
    """Return a model's tokens as llguidance takes them; InvalidInput where they have no bytes of their own.

    Bytes are handed over, not a tokenizer.json: llguidance would take seconds for a large one, and threads wait then.
    """
    vocab_size, ends = decoder.config.vocab_size, list(decoder.config.eos_ids)
    special: list[int] = []
    encode: Callable[[str], list[int]]
    if isinstance(decoder.tokenizer, ByteTokenizer):
        known: dict[int, bytes] | None = {token: bytes([token]) for token in range(256)}
        encode = decoder.tokenizer.encode
    elif isinstance(decoder.tokenizer, FileTokenizer):
        known, special = decoder.tokenizer.token_bytes(), decoder.tokenizer.special_tokens()
        encode = decoder.tokenizer.encode_part
    else:
        raise InvalidInput("grammar: this model came without a tokenizer")
    if known is None:
        raise InvalidInput(
            "grammar: the tokens of this model have no bytes of their own, as its tokenizer.json joins them by other "
            "rules than those of byte pairs and sentencepiece"
        )
    number, ends = width(vocab_size, ends), ends or [vocab_size]
    texts = [known.get(token, b"") for token in range(number)]
    tokens = Tokens([b"" if MARKED in text else text for text in texts], ends, special, encode)
    return library().LLTokenizer(library().TokenizerWrapper(tokens), n_vocab=number, eos_token=ends)


class Tokens:
    """Tokens as llguidance asks for them.

    Args:
        tokens: bytes of each; those without any are never chosen.
        ends: end tokens.
        special: others that are no text.
        encode: makes tokens of a text, by the rules of the model.
    """

    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], ends: list[int], special: list[int], encode: Callable[[str], list[int]]
    ) -> None:
        self.tokens, self.eos_token_id, self._encode = tokens, ends[0], encode
        self.special_token_ids = sorted({token for token in (*ends, *special) if token < len(tokens)})

    @cached_property
    def _texts(self) -> dict[bytes, int]:
        """Return the tokens by their texts; seldom needed, and large."""
        special = {*self.special_token_ids}
        return {text: token for token, text in enumerate(self.tokens) if text and token not in special}

    def __call__(self, text: bytes) -> list[int]:
        """Return the tokens in which a model writes a text that it must write."""
        for mark in ("", MARK):  # some put a space before the first character
            tokens = self._encode(mark + text.decode(errors="replace"))
            for first in range(1 + len(mark) * MARK_TOKENS):
                part = tokens[first:]
                if not set(part) & set(self.special_token_ids) and self._joined(part) == text:
                    return part
        return self._longest_first(text)

    def _joined(self, tokens: Sequence[int]) -> bytes:
        """Return the text of tokens."""
        return b"".join(self.tokens[token] for token in tokens if token < len(self.tokens))

    def _longest_first(self, text: bytes) -> list[int]:
        """Return the tokens of a text, the longest one that fits at each place; as far as there are some."""
        longest = max(map(len, self._texts), default=0)
        result, place = [], 0
        while place < len(text):
            lengths = range(min(longest, len(text) - place), 0, -1)
            length = next((length for length in lengths if text[place : place + length] in self._texts), 0)
            if not length:
                break
            result.append(self._texts[text[place : place + length]])
            place += length
        return result


def short(words: str) -> str:
    """Return the first line of an error, cut where it is long."""
    line = (words.strip().splitlines() or ["unknown error"])[0]
    return line if len(line) <= 300 else line[:300] + "..."
