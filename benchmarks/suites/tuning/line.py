"""Lines of the comparison with an exhaustive search, and what they say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from bitnet_jit.tuning.search import GAIN

SEARCHES = ("quick", "full", "full")


@dataclass(frozen=True)
class Line:
    """The figures of one problem; times in microseconds, all of one measurement.

    Attributes:
        competed: configs that ran and answered right.
        best: the fastest of all, with its kernel, config and time.
        default: the same of the choice that runs untuned.
        choices: the same of each of SEARCHES; None where a search was undecided.
    """

    shape: str
    rows: int
    competed: int
    best: dict[str, Any]
    default: dict[str, Any]
    choices: list[dict[str, Any] | None]

    def ratios(self) -> list[float | None]:
        """Return the time of each search's choice over that of the best one."""
        return [choice["microseconds"] / self.best["microseconds"] if choice else None for choice in self.choices]


def summary(lines: Sequence[Line]) -> Table:
    """Return the table of all problems: how much slower than the best each choice is."""
    table = Table(title=f"{len(lines)} problems, {median(line.competed for line in lines):.0f} configs each")
    for heading in ("search", "within 5 %", "within 10 %", "median", "worst", "where"):
        table.add_column(heading, justify="left" if heading in ("search", "where") else "right")
    ratios_of: list[list[float | None]] = [
        [line.default["microseconds"] / line.best["microseconds"], *line.ratios()] for line in lines
    ]
    for place, name in enumerate(("untuned", *SEARCHES)):
        pairs = [(ratios[place], line) for ratios, line in zip(ratios_of, lines, strict=True)]
        values = sorted(ratio for ratio, _ in pairs if ratio)
        if not values:
            table.add_row(name, "found nothing")
            continue
        worst = [f"{line.shape}, {line.rows} rows" for ratio, line in pairs if ratio == values[-1] > 1]
        where = " and ".join(worst[:2]) + (f" and {len(worst) - 2} more" if len(worst) > 2 else "")
        counts = [f"{sum(ratio <= limit for ratio in values)} of {len(lines)}" for limit in (1.05, 1.10)]
        table.add_row(name, *counts, f"{median(values):.3f}", f"{values[-1]:.3f}", where)
    return table


def agreement(lines: Sequence[Line]) -> str:
    """Say whether the two full searches agree where it matters."""
    pairs = [(a, b) for _, a, b in (line.choices for line in lines) if a and b]
    if not pairs:
        return "at no problem did both full searches find something"
    apart = [max(a["microseconds"] / b["microseconds"], b["microseconds"] / a["microseconds"]) for a, b in pairs]
    agree = sum((a["kernel"], a["config"]) == (b["kernel"], b["config"]) for a, b in pairs)
    return (
        f"both full searches found something at {len(pairs)} problems, and the same at {agree}; the times of their "
        f"choices differ by at most {100 * max(apart) - 100:.1f} %"
    )


def gain(lines: Sequence[Line]) -> str:
    """Say how much faster tuning makes calls."""
    pairs = [(line.default, line.choices[1]) for line in lines]
    gains = [default["microseconds"] / choice["microseconds"] for default, choice in pairs if choice]
    if not gains:
        return "full tuning against the default: nothing was found"
    faster = [ratio for ratio in gains if ratio > GAIN]
    return (
        f"full tuning against the default: {median(gains):.3f}x faster in the median of {len(gains)} problems, "
        f"{median(faster or [1.0]):.3f}x in the median of the {len(faster)} where it gains something"
    )
