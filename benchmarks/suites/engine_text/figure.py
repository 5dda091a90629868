"""`Figure`: one figure of the engine beside the limit that it should keep."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        part: of the options' PARTS.
        name: what was measured, in words.
        value: the figure, a ratio.
        limit: what is to be reached, or not to be passed.
        more_is_better: whether the figure must reach the limit.
        details: what it is made of: names and numbers, units in the names.
    """

    part: str
    name: str
    value: float
    limit: float
    more_is_better: bool
    details: dict[str, float]

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.more_is_better else self.value <= self.limit
