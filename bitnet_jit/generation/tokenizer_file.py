"""A tokenizer.json, run by the `tokenizers` library, and the text of its tokens as they come.

The library's `DecodeStream` is not used: it raises an error ("Invalid prefix") at byte-fallback tokens that are no
UTF-8, and repeats text of a prompt that ends within a character. It also has no end, at which held-back text is due,
and versions before 0.22 take no prompt.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.generation.token_bytes import token_bytes
from bitnet_jit.generation.tokenizer_library import Content, make_library
from bitnet_jit.generation.unicode import REPLACEMENT, well_formed
from bitnet_jit.system.library_errors import reason, refused

logger = logging.getLogger(__name__)

MAX_FILE = 2**28  # bytes; known vocabularies take up to 40 MB, and without memory the library ends the process
MAX_ID = 2**32 - 1
MIN_CONTEXT = 16  # tokens that are decoded together with new ones


class FileTokenizer:
    """A tokenizer.json. It makes all tokens of a text, whatever the file says of truncation, padding and dropout.

    Lone surrogates become U+FFFD, as with `ByteTokenizer`.

    Args:
        path: the file; errors name it.
        content: what a tokenizer.json would hold, or its bytes, where it stands in another file.

    Raises:
        CheckpointError: the file cannot be read, is too large or is no tokenizer.
    """

    def __init__(self, path: Path, content: bytes | Content | None = None) -> None:
        content = read(path) if content is None else content
        self._path = path
        with refused(lambda error: f"{path}: expected a tokenizer of the tokenizers library ({reason(error)})"):
            library: Any = make_library(content)
            library.no_truncation()
            library.no_padding()
            if getattr(library.model, "dropout", None):  # leaves out merges at random, which is meant for training
                library.model.dropout = None
            added = library.get_added_tokens_decoder()
        self._library = library
        self._added = {token.content: number for number, token in added.items()}
        self._unknown: set[int] = set()

    def content(self) -> bytes:
        """Return what a tokenizer.json holds of it."""
        return str(self._library.to_str()).encode()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with the tokens that the file's post-processor puts around it.

        Raises:
            InvalidInput: it is no str.
            CheckpointError: the file has no token for it, or is damaged.
        """
        if not isinstance(text, str):
            raise InvalidInput(f"text: expected a str, got {type(text).__name__}")
        with refused(lambda error: f"{self._path}: makes no tokens of the text {show(text)} ({reason(error)})"):
            return list(self._library.encode(well_formed(text)).ids)

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        """Return the text of tokens; an id that the file does not have is no text, and a warning is logged.

        Args:
            tokens: ids.
            special: whether special tokens are a part of the text.

        Raises:
            InvalidInput: a token is no id.
            CheckpointError: the file is damaged.
        """
        ids = [whole_number("tokens", token, 0, MAX_ID) for token in tokens]
        for number in ids:
            self._check_known(number)
        with refused(lambda error: f"{self._path}: makes no text of the tokens {show(ids)} ({reason(error)})"):
            return str(self._library.decode(ids, skip_special_tokens=not special))

    def stream(self, prompt_tokens: Iterable[int] = (), special: bool = False) -> "FileStream":
        """Begin a text behind a prompt, to be decoded token by token, with or without its special tokens."""
        return FileStream(self, prompt_tokens, special)

    def special_ids(self, text: str) -> tuple[int, ...]:
        """Return the id of the added token that is written just so, or none."""
        return (self._added[text],) if text in self._added else ()

    def token_bytes(self) -> dict[int, bytes] | None:
        """Return the bytes of each token by its id; None where a token's text depends on its neighbours."""
        return token_bytes(self._library)

    def encode_part(self, text: str) -> list[int]:
        """Return the tokens of a part of a text, with no special ones around it."""
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def special_tokens(self) -> list[int]:
        """Return the ids of the tokens that are no text."""
        return [number for number, token in self._library.get_added_tokens_decoder().items() if token.special]

    def _check_known(self, number: int) -> None:
        """Log a warning once for each id that the file does not have."""
        if number not in self._unknown and self._library.id_to_token(number) is None:
            self._unknown.add(number)
            logger.warning("%s has no token of the id %d, which the model's vocabulary has", self._path, number)


def read(path: Path) -> bytes:
    """Read the content of a file; CheckpointError where it is none, is too large or cannot be read."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a file, found none; was a download interrupted?")
        if path.stat().st_size > MAX_FILE:
            raise CheckpointError(f"{path}: expected at most {MAX_FILE} bytes, found {path.stat().st_size}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


class FileStream:
    """A text whose new tokens are decoded with earlier ones, because the text of a token depends on its neighbours.

    Text that was given out is never taken back. An unfinished character decodes to U+FFFD; it waits for its other
    tokens. If the prompt has left it unfinished, it is given out whole.

    Args:
        tokenizer: decodes.
        prompt_tokens: the tokens before the text; their decoded text counts as given out.
        special: whether special tokens are a part of the text.
    """

    def __init__(self, tokenizer: FileTokenizer, prompt_tokens: Iterable[int] = (), special: bool = False) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._tokens = list(prompt_tokens)
        self._given = self._decode(self._tokens)  # the part of the text of self._tokens that was given out
        self._context = len(self._tokens)  # start of the tokens that may be the context of later ones

    def push(self, token: int) -> str:
        """Take the next token; return the text that it makes certain, possibly none."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        certain = text.rstrip(REPLACEMENT)
        piece = certain[self._start(text) :]
        if piece:
            self._given = certain
            if certain == text:
                self._forget()
        return piece

    def finish(self) -> str:
        """Return the text that was held back; no token follows."""
        text = self._decode(self._tokens)
        piece = text[self._start(text) :]
        self._given = text
        return piece

    def _start(self, text: str) -> int:
        """Return the index at which the new part of a text begins."""
        common = len(os.path.commonprefix([self._given, text]))
        # an unfinished character is finished now; or bytes that were a character are none with the bytes behind them
        return common if not self._given[common:].strip(REPLACEMENT) else len(self._given)

    def _forget(self) -> None:
        """Keep the last tokens alone, once they suffice as a context: whole characters, not all of them white space."""
        if len(self._tokens) - self._context < MIN_CONTEXT:
            return
        recent = self._tokens[self._context :]
        text = self._decode(recent)
        if text.strip() and REPLACEMENT not in text:
            self._tokens, self._given = recent, text
        self._context = len(self._tokens)  # behind a whole character, which the prompt need not end with

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, self._special)
