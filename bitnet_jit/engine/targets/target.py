"""`Target`: one promise of the engine, as a limit, with the figure that was measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A limit and the figure that stands against it.

    Attributes:
        name: what is promised, in words.
        limit: what is to be reached, or not to be passed.
        unit: of the limit and the figure, such as "ms".
        more_is_better: whether the figure must reach the limit, instead of staying under it.
        measured: the figure; None where this machine does not tell.
        how: how it was measured, in words.

    >>> Target("latency", 1.0, "ms", False, 0.25, "one call").is_met
    True
    """

    name: str
    limit: float
    unit: str
    more_is_better: bool
    measured: float | None
    how: str

    @property
    def is_met(self) -> bool | None:
        """Return whether the limit is kept; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.more_is_better else self.measured <= self.limit

    @property
    def words(self) -> str:
        """Return the limit in words.

        >>> Target("rows", 300_000.0, "rows/s", True, None, "").words
        'at least 300,000 rows/s'
        """
        return f"{'at least' if self.more_is_better else 'at most'} {in_digits(self.limit)} {self.unit}"

    @property
    def figure(self) -> str:
        """Return the figure in words; "-" where there is none."""
        return "-" if self.measured is None else f"{in_digits(self.measured)} {self.unit}"


def in_digits(value: float) -> str:
    """Return a number as people read it: whole from 1,000 on, else with three digits.

    >>> in_digits(412345.6), in_digits(90.0), in_digits(0.01234)
    ('412,346', '90', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
