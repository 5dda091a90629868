"""Guesses by n-grams: what followed the last tokens of a text where they stood in it before."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from bitnet_jit.generation.continuation import Text

SIZES = (4, 3, 2)  # of n-grams, those looked for first


class NGrams:
    """The n-grams of a text that grows.

    >>> ngrams = NGrams()
    >>> ngrams.extend([5, 6, 7, 8, 5, 6])
    >>> ngrams.following(3)
    [7, 8, 5]
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._ends: dict[
            tuple[int, ...], int
        ] = {}  # n-gram -> the place behind its last occurrence but the present one

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens; an n-gram at the very end is entered when a token follows it."""
        for token in tokens:
            end = len(self.tokens)
            for size in SIZES:
                if end >= size:
                    self._ends[tuple(self.tokens[end - size :])] = end
            self.tokens.append(token)

    def following(self, most: int) -> list[int]:
        """Return at most so many tokens that followed the longest known n-gram at the end."""
        for size in SIZES:
            place = self._ends.get(tuple(self.tokens[-size:]))
            if place is not None:
                return self.tokens[place : place + most]
        return []


class NGramDrafter:
    """Guesses the tokens of texts from the texts themselves."""

    def __init__(self) -> None:
        self._texts: WeakKeyDictionary[Text, NGrams] = WeakKeyDictionary()

    def draft(self, texts: "Sequence[Text]", limits: Sequence[int]) -> list[list[int]]:
        """Return guesses for each text; see `speculation.Drafter`."""
        guesses = []
        for text, limit in zip(texts, limits, strict=True):
            ngrams = self._texts.setdefault(text, NGrams())
            ngrams.extend(text.ids_from(len(ngrams.tokens)))
            guesses.append(ngrams.following(limit) if limit else [])
        return guesses
