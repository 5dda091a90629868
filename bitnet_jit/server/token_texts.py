"""How single tokens read, for log-probabilities."""

from bitnet_jit.engine.text.generation import TokenLogprobs
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.generation.unicode import REPLACEMENT


class TokenTexts:
    """The texts of a model's tokens. A token that is no whole character, or no text, is written "token_id:ID".

    Args:
        tokenizer: of the model; None: tokens have no texts.

    >>> from bitnet_jit.generation.tokenizer import ByteTokenizer
    >>> texts = TokenTexts(ByteTokenizer())
    >>> texts.name(65), texts.name(195), texts.utf8(65), texts.utf8(195)
    ('A', 'token_id:195', [65], None)
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def name(self, token: int) -> str:
        """Return how a token is written."""
        return self._text(token) or number(token)

    def likeliest(self, token: int, values: TokenLogprobs) -> dict[str, float]:
        """Return the log-probabilities of a chosen token and of the likeliest ones, by their names.

        Some tokens read alike, such as a letter and its byte: the others are written by their ids then.
        """
        result = {self.name(token): values.chosen}
        for other, value in values.likeliest:
            if other != token:
                name = self.name(other)
                result[number(other) if name in result else name] = value
        return result

    def utf8(self, token: int) -> list[int] | None:
        """Return the bytes of a token's text; None where it has none alone."""
        text = self._text(token)
        return list(text.encode()) if text else None

    def _text(self, token: int) -> str:
        """Return the text of a token behind itself, as decoders drop the space before a first one; "" for none."""
        if self._tokenizer is None:
            return ""
        if token not in self._texts:
            stream = self._tokenizer.stream((token,), special=True)
            text = stream.push(token) + stream.finish()
            self._texts[token] = "" if REPLACEMENT in text else text
        return self._texts[token]


def number(token: int) -> str:
    """Return how a token is written that has no text of its own."""
    return f"token_id:{token}"
