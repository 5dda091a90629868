"""Text to token ids and back. Models whose tokens are bytes need no file; all others bring a tokenizer.json.

Going back, a stream gives out text as tokens come and holds back what may still change: the first bytes of a character
whose others are in tokens to come.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from bitnet_jit.errors import CheckpointError

FILE = "tokenizer.json"
BYTE_VOCABULARY = 256
REPLACEMENT = "\ufffd"  # what an incomplete character decodes to


class TextStream(Protocol):
    """One text that is being written."""

    def push(self, token: int) -> str:
        """The text that the next token makes certain, possibly none."""
        ...

    def finish(self) -> str:
        """What was held back, once no token follows."""
        ...


class Tokenizer(Protocol):
    """Between text and token ids."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with those that the model expects around it."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        ...

    def stream(self) -> TextStream:
        """A new text, to be decoded token by token."""
        ...


class ByteTokenizer:
    """A token is a byte of UTF-8.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("née")
    [110, 195, 169, 101]
    >>> stream = tokenizer.stream()
    >>> [stream.push(token) for token in [110, 195, 169, 101]]
    ['n', '', 'é', 'e']
    """

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")

    def stream(self) -> TextStream:
        return ByteStream()


class ByteStream:
    """Bytes to text, a character when its last byte has come; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class FileTokenizer:
    """A tokenizer.json, run by the `tokenizers` library.

    Raises:
        CheckpointError: the file cannot be read or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library: Any = Library.from_file(str(path))
        except Exception as error:  # the library raises plain Exception, whatever is wrong
            raise CheckpointError(f"{path}: expected a tokenizer of the tokenizers library ({error})") from error

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._library.decode(list(tokens)))

    def stream(self) -> TextStream:
        return FileStream(self)


class FileStream:
    """Decodes new tokens with a few before them, because a token's text depends on its neighbours."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._certain = 0  # how many of them are given out

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before, text = self._decode()
        if len(text) <= len(before) or text.endswith(REPLACEMENT):
            return ""
        self._tokens = self._tokens[self._certain :]
        self._certain = len(self._tokens)
        return text[len(before) :]

    def finish(self) -> str:
        before, text = self._decode()
        self._certain = len(self._tokens)
        return text[len(before) :]

    def _decode(self) -> tuple[str, str]:
        """The text of the tokens that are given out already, and of all."""
        return self._tokenizer.decode(self._tokens[: self._certain]), self._tokenizer.decode(self._tokens)


def find_tokenizer(directory: Path, vocab_size: int) -> Tokenizer | None:
    """The tokenizer of a checkpoint directory; None where it has no file and its tokens are no bytes.

    Raises:
        CheckpointError: its file is damaged.
    """
    if (directory / FILE).is_file():
        return FileTokenizer(directory / FILE)
    return ByteTokenizer() if vocab_size == BYTE_VOCABULARY else None
