"""`Usual`: the time of steps that write texts alone; and which part of it prompts may take beside them."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low

LEAST = 8  # tokens of prompts in a step
RECENT = 12  # steps that count


def share_of(reading: int, writing: int, least: float) -> float:
    """Return what prompts may take beside texts, in parts of a step's usual time.

    Time is shared evenly: while R texts are read and W are written, prompts take R / W of what a step of writing takes.
    Texts that begin together are soon written together, since steps of many are worth most: where more are read than
    written it is the square of that.

    >>> share_of(1, 16, 0.6), share_of(12, 16, 0.6), share_of(32, 16, 0.6)
    (0.6, 0.75, 4.0)
    """
    ratio = reading / writing
    return max(least, ratio, ratio * ratio)


@dataclass
class Usual:
    """What steps took.

    Attributes:
        step_s: seconds of the last steps that wrote texts alone, by the logarithm of their number.
    """

    step_s: dict[int, deque[float]] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Return whether there was such a step."""
        return bool(self.step_s)

    def note(self, writing: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts."""
        self.step_s.setdefault(writing.bit_length(), deque(maxlen=RECENT)).append(seconds)

    def seconds(self, writing: int) -> float:
        """Return the seconds of a step that writes about so many texts alone, or as near as is known; 0 for none."""
        if not writing or not self.step_s:
            return 0.0
        return median_low(self.step_s[min(self.step_s, key=lambda size: abs(size - writing.bit_length()))])
