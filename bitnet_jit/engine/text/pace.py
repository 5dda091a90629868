"""`Pace`: how many tokens of prompts a step may hold, so that texts that are being written do not wait for them.

A long prompt beside many texts leaves them their pace; prompts that come together are read first, and who has just
begun waits (`share_of`). Here each token of a prompt adds about as much to a step; `GraphPace` is for GPUs.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low

from bitnet_jit.engine.text.usual import LEAST, RECENT, Usual, share_of

SHARE = 0.6  # of a step's usual time, that prompts may take at least: with its spread it stays below twice
GROWTH = 2  # times as many tokens as the longest of the last steps had
TILE = 8  # rows of a kernel's tile: a part of one takes as long


@dataclass
class Pace:
    """What steps took.

    Args:
        most: tokens of prompts in a step where no text is being written.

    Attributes:
        usual: the time of steps that write texts alone.
        added: (tokens of prompts, seconds that they added) of the last steps that had some.
    """

    most: int
    usual: Usual = field(default_factory=Usual)
    added: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def budget(self, writing: int, reading: int = 1, young: int = 0) -> int:
        """Return how many tokens of prompts the next step may hold: none where a step without them is yet to be seen.

        Args:
            writing: texts that are being written.
            reading: texts whose prompts are read, or wait.
            young: texts that are being written and have just begun.

        >>> pace = Pace(1024)
        >>> pace.note(8, 0, 0.040), pace.note(0, 100, 0.100)
        (None, None)
        >>> pace.budget(8), pace.budget(8, 16), pace.budget(8, 16, 8), pace.budget(0)
        (24, 160, 1024, 1024)
        """
        if writing == young or not reading:
            return self.most
        if not self.usual.is_known:
            return 0
        if not self.added:
            return min(self.most, in_tiles(writing, LEAST))
        seconds = share_of(reading, writing - young, SHARE) * self.usual.seconds(writing)
        tokens = int(seconds / median_low([more / tokens for tokens, more in self.added]))
        longest = max(tokens for tokens, _ in self.added)
        return min(self.most, in_tiles(writing, min(self.most, GROWTH * longest, tokens)))

    def note(self, writing: int, tokens: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts, and read so many tokens of prompts."""
        if not tokens:
            self.usual.note(writing, seconds)
        elif (more := seconds - self.usual.seconds(writing)) > 0:  # else what is known of such steps was disturbed
            self.added.append((tokens, more))


def in_tiles(writing: int, tokens: int) -> int:
    """Return at most so many tokens, and about LEAST at least, that fill tiles together with texts.

    >>> in_tiles(16, 23), in_tiles(13, 23), in_tiles(13, 1)
    (16, 19, 11)
    """
    tokens = (writing + tokens) // TILE * TILE - writing
    return tokens if tokens >= LEAST else (writing + LEAST + TILE - 1) // TILE * TILE - writing
