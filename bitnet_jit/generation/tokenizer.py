"""Text to token ids and back. Models whose tokens are bytes need no file; all others bring a tokenizer.json.

On the way back, a stream gives out text as tokens come. It holds back the first bytes of a character whose other bytes
are in tokens to come. It knows the tokens of the prompt, because the text of a token depends on the tokens before it:
the decoded prompt and the pieces of the stream are together the text that the tokenizer decodes from all tokens.
"""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bitnet_jit.arguments import whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer_file import FileTokenizer
from bitnet_jit.generation.unicode import REPLACEMENT, well_formed

FILE = "tokenizer.json"
BYTE_VOCABULARY = 256


class TextStream(Protocol):
    """One text that is being written, token by token."""

    def push(self, token: int) -> str:
        """Take the next token; return the text that it makes certain, possibly none."""
        ...

    def finish(self) -> str:
        """Return the text that was held back; no token follows."""
        ...


class Tokenizer(Protocol):
    """A map between text and token ids."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with the tokens that the model expects around it."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        ...

    def stream(self, prompt_tokens: Sequence[int] = (), special: bool = False) -> TextStream:
        """Begin a text behind a prompt, to be decoded token by token, with or without its special tokens."""
        ...

    def special_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of the special tokens that are written just so."""
        ...


class ByteTokenizer:
    """A tokenizer whose tokens are the bytes of UTF-8. Lone surrogates have no bytes and become U+FFFD.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("née")
    [110, 195, 169, 101]
    >>> stream = tokenizer.stream()
    >>> [stream.push(token) for token in [110, 195, 169, 101]]
    ['n', '', 'é', 'e']
    """

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text; InvalidInput where it is no str."""
        if not isinstance(text, str):
            raise InvalidInput(f"text: expected a str, got {type(text).__name__}")
        return list(well_formed(text).encode("utf-8"))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of bytes, with U+FFFD for bytes that are no UTF-8; InvalidInput where a token is no byte."""
        return as_bytes(tokens).decode("utf-8", errors="replace")

    def stream(self, prompt_tokens: Iterable[int] = (), special: bool = False) -> TextStream:  # noqa: ARG002
        """Begin a text behind a prompt; there are no special tokens."""
        return ByteStream(as_bytes(prompt_tokens))

    def special_ids(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        """Return no ids: every token is a byte."""
        return ()


def as_bytes(tokens: Iterable[int]) -> bytes:
    """Return tokens as bytes; InvalidInput where one is no byte."""
    return bytes(whole_number("tokens", token, 0, BYTE_VOCABULARY - 1) for token in tokens)


class ByteStream:
    """A stream of bytes to text, a character when its last byte has come; bytes that are no UTF-8 become U+FFFD.

    Args:
        prompt: the bytes before; where they end within a character, its U+FFFD counts as given out.
    """

    def __init__(self, prompt: bytes = b"") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(prompt)
        self._given = REPLACEMENT if self._decoder.getstate()[0] else ""

    def push(self, token: int) -> str:
        """Take the next byte; return the text that it makes certain, possibly none."""
        return self._behind_prompt(self._decoder.decode(as_bytes([token])))

    def finish(self) -> str:
        """Return U+FFFD where a character was left unfinished."""
        return self._behind_prompt(self._decoder.decode(b"", final=True))

    def _behind_prompt(self, text: str) -> str:
        """Remove the U+FFFD that the decoded prompt ends with."""
        if text and self._given:
            text, self._given = text.removeprefix(self._given), ""
        return text


def find_tokenizer(directory: Path, vocab_size: int) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint directory; None where it has no file and its tokens are no bytes.

    Raises:
        CheckpointError: its file is damaged, or is no file.
    """
    file = directory / FILE
    if file.is_symlink() or file.exists():  # an interrupted download leaves a link to nowhere
        return FileTokenizer(file)
    return ByteTokenizer() if vocab_size == BYTE_VOCABULARY else None
