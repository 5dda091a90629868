"""`Pace`: how many tokens of prompts a step may hold, so that texts that are being written do not wait for them.

Time is shared evenly: while R texts are read and W are written, prompts take R / W of what a step of writing takes.
So a long prompt beside many texts leaves them their pace, and many short ones beside a single text begin soon.
"""

from dataclasses import dataclass, field

SHARE = 0.6  # of a step's usual time, that prompts may take at least: with its spread it stays below twice
LEAST = 8  # tokens of prompts in a step
WEIGHT = 0.2  # of the newest step, in the averages


@dataclass
class Pace:
    """Averages of what steps take.

    Args:
        most: tokens of prompts in a step where no text is being written.

    Attributes:
        step_s: seconds of a step that writes texts alone, by the logarithm of their number.
        token_s: seconds that a prompt's token adds, 0 while unknown.
    """

    most: int
    step_s: dict[int, float] = field(default_factory=dict)
    token_s: float = 0.0

    def budget(self, writing: int, reading: int = 1) -> int:
        """Return how many tokens of prompts the next step may hold.

        Args:
            writing: texts that are being written.
            reading: texts whose prompts are read, or wait.

        >>> pace = Pace(1024)
        >>> pace.note(8, 0, 0.040), pace.note(0, 100, 0.100)
        (None, None)
        >>> pace.budget(8), pace.budget(8, 16), pace.budget(0)
        (24, 80, 1024)
        """
        if not writing:
            return self.most
        usual = self.usual(writing)
        if not usual or not self.token_s:
            return min(self.most, LEAST)
        share = max(SHARE, reading / writing)
        return max(LEAST, min(self.most, int(share * usual / self.token_s)))

    def note(self, writing: int, tokens: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts, and read so many tokens of prompts."""
        size = writing.bit_length()
        if not tokens:
            self.step_s[size] = blend(self.step_s.get(size, 0.0), seconds)
        elif not writing or self.usual(writing):
            self.token_s = blend(self.token_s, max(0.0, seconds - self.usual(writing)) / tokens)

    def usual(self, writing: int) -> float:
        """Return the seconds of a step that writes about so many texts alone; 0 for none, and while unknown."""
        if not writing or not self.step_s:
            return 0.0
        size = writing.bit_length()
        return self.step_s[min(self.step_s, key=lambda known: abs(known - size))]


def blend(before: float, new: float) -> float:
    """Return an average in which the newest number counts WEIGHT; the first one counts alone."""
    return new if not before else before + WEIGHT * (new - before)
