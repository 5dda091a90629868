"""Distributions of lengths in tokens, as the command line writes them: 128, uniform:16:256, lognormal:128:0.5."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 2**20
FORMS = "128, fixed:128, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA or lognormal:MEDIAN:SIGMA:MAX"


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers from 1 on.

    Attributes:
        words: as on the command line.
        low, high: what no draw leaves.
        draw: (random numbers, count) -> floats (count,), before they are rounded and cut.
    """

    words: str
    low: int
    high: int
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]]

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draw so many lengths.

        >>> parse_lengths("uniform:3:5").sample(np.random.default_rng(0), 6)
        [5, 4, 4, 3, 3, 3]
        """
        return [int(each) for each in np.clip(np.rint(self.draw(rng, count)), self.low, self.high)]


def parse_lengths(words: str) -> Lengths:
    """Return the distribution of a word of the command line.

    Raises:
        ValueError: there is no such form, or a number is out of range.

    >>> parse_lengths("lognormal:100:0.5:400").high
    400
    """
    kind, _, rest = words.partition(":") if ":" in words else ("fixed", "", words)
    try:
        numbers = [float(each) for each in rest.split(":")]
        match kind, numbers:
            case "fixed", [length]:
                low, high = length, length
            case "uniform", [low, high]:
                pass
            case "lognormal", [_, sigma, *most] if 0 <= sigma < 10 and len(most) < 2:
                low, high = 1.0, most[0] if most else float(MAX_TOKENS)
            case _:
                raise ValueError
        if not (1 <= low <= high <= MAX_TOKENS and all(each == int(each) for each in (low, high))):
            raise ValueError
        if kind == "lognormal" and not 1 <= numbers[0] <= high:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"expected {FORMS}, got {words!r}") from None
    return Lengths(words, int(low), int(high), drawing(kind, numbers))


def drawing(kind: str, numbers: list[float]) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Return what draws floats of a distribution."""
    if kind == "lognormal":
        median, sigma = numbers[:2]
        return lambda rng, count: median * np.exp(sigma * rng.standard_normal(count))
    low, high = numbers[0], numbers[-1]
    return lambda rng, count: rng.integers(int(low), int(high) + 1, count).astype(np.float64)
