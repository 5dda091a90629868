"""The library llguidance, and the tokens of a model as it reads them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer import ByteTokenizer
from bitnet_jit.generation.tokenizer_file import FileTokenizer

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

SPACE = "\u2581"  # as Metaspace writes it


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
    """Return llguidance's view of a model's tokenizer; InvalidInput where it has none that llguidance can read."""
    vocab_size, ends = decoder.config.vocab_size, list(decoder.config.eos_ids)
    tokens = width(vocab_size, ends)
    content: Any
    if isinstance(decoder.tokenizer, ByteTokenizer):
        content = library().TokenizerWrapper(ByteTokens(tokens, ends or [vocab_size]))
    elif isinstance(decoder.tokenizer, FileTokenizer):
        content = without_metaspace(decoder.tokenizer.content())
    else:
        raise InvalidInput("grammar: this model came without a tokenizer")
    try:
        return library().LLTokenizer(content, n_vocab=tokens, eos_token=ends or [vocab_size])
    except Exception as error:  # its own kinds of errors, panics apart, are not told
        raise InvalidInput(f"grammar: llguidance cannot read the model's tokenizer: {short(str(error))}") from error


def without_metaspace(content: str) -> str:
    """Return a tokenizer.json whose decoder, where it is Metaspace, is written as the steps that llguidance knows."""
    file = json.loads(content)
    decoder = file.get("decoder") or {}
    kinds = {step.get("type") for step in (decoder, *decoder.get("decoders", ()))}
    if "Metaspace" not in kinds:
        return content
    steps = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return json.dumps(file | {"decoder": {"type": "Sequence", "decoders": steps}})


class ByteTokens:
    """Tokens that are bytes, as llguidance asks for them.

    Args:
        number: of tokens; those beyond bytes are empty.
        ends: end tokens, which stand for no byte.
    """

    bos_token_id = None

    def __init__(self, number: int, ends: list[int]) -> None:
        self.eos_token_id, self.special_token_ids = ends[0], ends
        self.tokens = [bytes([token]) if token < 256 else b"" for token in range(number)]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def short(words: str) -> str:
    """Return the first line of an error, cut where it is long."""
    line = (words.strip().splitlines() or ["unknown error"])[0]
    return line if len(line) <= 300 else line[:300] + "..."
