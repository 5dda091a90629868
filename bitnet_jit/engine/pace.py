"""`Pace`: how many tokens of prompts a step may hold, so that texts that are being written do not wait for them."""

from dataclasses import dataclass

SHARE = 0.75  # of a step's usual time, that prompts may take beside it: with its spread it stays below twice
LEAST = 16  # tokens of prompts in a step
WEIGHT = 0.2  # of the newest step, in the averages


@dataclass
class Pace:
    """Averages of what steps take.

    Args:
        most: tokens of prompts in a step where no text is being written.

    Attributes:
        step_s: seconds of a step that writes texts alone, 0 while unknown.
        token_s: seconds that a prompt's token adds, 0 while unknown.
    """

    most: int
    step_s: float = 0.0
    token_s: float = 0.0

    def budget(self, writing: int) -> int:
        """Return how many tokens of prompts the next step may hold beside so many texts.

        >>> pace = Pace(1024)
        >>> pace.note(8, 0, 0.040), pace.note(0, 100, 0.200), pace.budget(8), pace.budget(0)
        (None, None, 16, 1024)
        """
        if not writing:
            return self.most
        if not self.step_s or not self.token_s:
            return min(self.most, LEAST)
        return max(LEAST, min(self.most, int(SHARE * self.step_s / self.token_s)))

    def note(self, writing: int, tokens: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts, and read so many tokens of prompts."""
        if not tokens:
            self.step_s = blend(self.step_s, seconds)
        elif not writing or self.step_s:
            self.token_s = blend(self.token_s, max(0.0, seconds - (self.step_s if writing else 0.0)) / tokens)


def blend(before: float, new: float) -> float:
    """Return an average in which the newest number counts WEIGHT; the first one counts alone."""
    return new if not before else before + WEIGHT * (new - before)
