"""`Pace`: how many tokens of prompts a step may hold, so that texts that are being written do not wait for them.

Time is shared evenly: while R texts are read and W are written, prompts take R / W of what a step of writing takes. So
a long prompt beside many texts leaves them their pace. Texts that begin together are soon written together, since
steps of many are worth most: where more are read than written it is the square of that, and who has just begun waits.

Prompts add to a step something per token, and on a GPU something however few they are, as a step of texts alone is one
launch there: where that is much, a step reads what takes as long again. Both are those of a line through the last
steps, by the median of all slopes (Theil and Sen), so that a kernel that was compiled in one does not count.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median_low

SHARE = 0.6  # of a step's usual time, that prompts may take at least: with its spread it stays below twice
LEAST = 8  # tokens of prompts in a step
RECENT = 12  # steps that count
GROWTH = 2  # times as many tokens as the longest of them had
PERIOD, PART = 6, 4  # one step of so many has a part of its tokens: a line needs two places
APART = 2  # times as many tokens has one of two steps, that tell a slope
LARGE = 0.5  # of a step's usual time: what prompts add at least is much then
TILE = 8  # rows of a kernel's tile: a part of one takes as long


@dataclass
class Pace:
    """What steps took.

    Args:
        most: tokens of prompts in a step where no text is being written.
        has_fixed: whether prompts add something however few they are.

    Attributes:
        step_s: seconds of the last steps that wrote texts alone, by the logarithm of their number.
        added: (tokens of prompts, seconds that they added) of the last steps that had some.
        planned: steps with prompts beside texts that were planned.
    """

    most: int
    has_fixed: bool = True
    step_s: dict[int, deque[float]] = field(default_factory=dict)
    added: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    planned: int = 0

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
        if not self.step_s:
            return 0
        if not self.added:
            return min(self.most, in_tiles(writing, LEAST))
        ratio, usual = reading / (writing - young), self.usual(writing)
        fixed, token = self.line()
        seconds = max(SHARE, ratio, ratio * ratio) * usual - fixed
        tokens = max(seconds, fixed if fixed > LARGE * usual else 0.0) / token
        tokens = min(self.most, GROWTH * max(tokens for tokens, _ in self.added), int(tokens))
        self.planned += 1
        is_part = self.has_fixed and self.planned % PERIOD == 0
        return min(self.most, in_tiles(writing, -(-tokens // PART) if is_part else tokens))

    def note(self, writing: int, tokens: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts, and read so many tokens of prompts."""
        if not tokens:
            self.step_s.setdefault(writing.bit_length(), deque(maxlen=RECENT)).append(seconds)
        elif (more := seconds - self.usual(writing)) > 0:  # else what is known of such steps was disturbed
            self.added.append((tokens, more))

    def usual(self, writing: int) -> float:
        """Return the seconds of a step that writes about so many texts alone, or as near as is known; 0 for none."""
        if not writing or not self.step_s:
            return 0.0
        return median_low(self.step_s[min(self.step_s, key=lambda size: abs(size - writing.bit_length()))])

    def line(self) -> tuple[float, float]:
        """Return the seconds that prompts add to a step, and that each of their tokens adds."""
        pairs = combinations(sorted(self.added) if self.has_fixed else (), 2)
        slopes = [(b - a) / (m - n) for (n, a), (m, b) in pairs if m >= APART * n]
        token = median_low(slopes) if slopes else 0.0
        if token <= 0:
            return 0.0, median_low([seconds / tokens for tokens, seconds in self.added])
        return max(0.0, median_low([seconds - tokens * token for tokens, seconds in self.added])), token


def in_tiles(writing: int, tokens: int) -> int:
    """Return at most so many tokens, and about LEAST at least, that fill tiles together with texts.

    >>> in_tiles(16, 23), in_tiles(13, 23), in_tiles(13, 1)
    (16, 19, 11)
    """
    tokens = (writing + tokens) // TILE * TILE - writing
    return tokens if tokens >= LEAST else (writing + LEAST + TILE - 1) // TILE * TILE - writing
