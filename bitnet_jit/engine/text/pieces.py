"""`TextPieces`: the text of new tokens, piece by piece, up to a stop string and not beyond."""

from collections.abc import Sequence

from bitnet_jit.generation.tokenizer import TextStream


class TextPieces:
    """The text of one request. What may be the beginning of a stop string is held back until it is certain.

    Args:
        stream: makes text of tokens; None where there is no tokenizer.
        stops: strings that end the text and are no part of it.
        ends: tokens that end the text and have none.

    >>> from bitnet_jit.generation.tokenizer import ByteTokenizer
    >>> pieces = TextPieces(ByteTokenizer().stream(), ["END"])
    >>> [pieces.push(byte, byte == ord("D")) for byte in b"a EN END"]
    ['a', ' ', '', '', 'EN ', '', '', '']
    """

    def __init__(self, stream: TextStream | None, stops: Sequence[str] = (), ends: Sequence[int] = ()) -> None:
        self._stream, self._stops, self._ends = stream, tuple(stops), frozenset(ends)
        self._held = ""

    def push(self, token: int, last: bool) -> str:
        """Take the next token, which may be the last one; return the text that is certain now."""
        if self._stream is None:
            return ""
        more = "" if token in self._ends else self._stream.push(token)
        text = self._held + more + (self._stream.finish() if last else "")
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places or last:
            self._held = ""
            return text[: min(places, default=len(text))]
        certain = len(text) - max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[certain:]
        return text[:certain]


def overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a string.

    >>> overlap("to be E", "END"), overlap("to be", "END")
    (1, 0)
    """
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(stop[:length])), 0)
