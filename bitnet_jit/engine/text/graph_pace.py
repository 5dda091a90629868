"""`GraphPace`: `Pace` where steps are graphs of a few sizes: a step takes what its graph takes, however full it is.

A larger size is chosen while it keeps the goal, or takes little more than the one below. What a size takes is what it
took of late, and for one that was not tried yet what the one below takes: so it is tried.
"""

from collections import deque
from dataclasses import dataclass, field

from bitnet_jit.engine.text.usual import LEAST, Usual, share_of
from bitnet_jit.runner.recorded import GRAPH_ROWS

SIZES = (*GRAPH_ROWS, 2048, 4096)  # rows of steps; the last ones are no graphs
SHARE = 0.8  # of a step's usual time, that prompts may take at least
WORTH = 1.15  # times as long as the size below may one take that is chosen all the same
RECENT = 4  # steps of a size, of which the least time counts
FORGOTTEN = 64  # steps with prompts, after which sizes are tried again: texts get longer, and end


@dataclass
class GraphPace:
    """What steps took.

    Args:
        most: tokens of prompts in a step where no text is being written.

    Attributes:
        usual: the time of steps that write texts alone.
        took: seconds of the last steps of each size that read prompts, too.
        planned: steps with prompts beside texts that were planned.
    """

    most: int
    usual: Usual = field(default_factory=Usual)
    took: dict[int, deque[float]] = field(default_factory=dict)
    planned: int = 0

    def budget(self, writing: int, reading: int = 1, young: int = 0) -> int:
        """Return how many tokens of prompts the next step may hold; see `Pace.budget`.

        >>> pace = GraphPace(4096)
        >>> pace.note(16, 0, 1.5), pace.budget(16)
        (None, 16)
        >>> pace.note(16, 16, 2.2), pace.note(16, 112, 2.3), pace.note(16, 240, 4.0), pace.budget(16)
        (None, None, None, 112)
        """
        if writing == young or not reading:
            return self.most
        if not self.usual.is_known:
            return 0
        self.planned += 1
        if self.planned % FORGOTTEN == 0:
            self.took.clear()
        goal = (1 + share_of(reading, writing - young, SHARE)) * self.usual.seconds(writing)
        size, *larger = [each for each in SIZES if each >= writing + LEAST] or [SIZES[-1]]
        for each in larger:
            if not (least := min(self.took.get(size, ()), default=0.0)):
                break
            if min(self.took.get(each, ()), default=least) > max(goal, WORTH * least):
                break
            size = each
        return min(self.most, max(LEAST, size - writing))

    def note(self, writing: int, tokens: int, seconds: float) -> None:
        """Note what a step took that wrote so many texts, and read so many tokens of prompts."""
        if not tokens:
            self.usual.note(writing, seconds)
        elif (size := next((each for each in SIZES if each >= writing + tokens), None)) is not None:
            self.took.setdefault(size, deque(maxlen=RECENT)).append(seconds)
