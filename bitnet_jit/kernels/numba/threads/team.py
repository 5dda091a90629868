"""The number of threads of a call, as a part of the configs: a second thread costs a microsecond, and half of the cores
may keep memory as busy as all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_jit.problem import Problem
from bitnet_jit.system.cores import available_cores

ALL = 2**16  # threads: as many as the caller grants
SMALL_WORK = 2**19  # products of a linear layer under which a second thread costs more than it brings


@dataclass(frozen=True)
class TeamConfig:
    """A config: a tile, and a number of threads.

    Attributes:
        tile: the shape of the kernel's tile; None where it has none.
        max_threads: how many threads share the work at most.
    """

    tile: Any
    max_threads: int = ALL


def thread_counts(few: bool) -> tuple[int, ...]:
    """Return all cores, half of them, and so on to one; one comes first where little work makes it the likeliest."""
    counts, cores = [ALL], available_cores()
    while cores > 1:
        cores //= 2
        counts.append(cores)
    return tuple(reversed(counts)) if few else tuple(counts)


def likely_teams(tiles: Sequence[Any], few: bool) -> tuple[TeamConfig, ...]:
    """Return each tile with the likeliest number of threads, and the likeliest tile with every number."""
    first, *others = thread_counts(few)
    return (*(TeamConfig(tile, first) for tile in tiles), *(TeamConfig(tiles[0], count) for count in others))


def all_teams(tiles: Sequence[Any], few: bool) -> tuple[TeamConfig, ...]:
    """Return each tile with every number of threads."""
    return tuple(TeamConfig(tile, count) for count in thread_counts(few) for tile in tiles)


def likely(tiles: Callable[[Problem], Sequence[Any]]) -> Callable[[Problem], tuple[TeamConfig, ...]]:
    """Return the configs of a linear kernel by its tiles."""
    return lambda problem: likely_teams(tiles(problem), is_small(problem))


def every(tiles: Callable[[Problem], Sequence[Any]]) -> Callable[[Problem], tuple[TeamConfig, ...]]:
    """Return the space of a linear kernel by its tiles."""
    return lambda problem: all_teams(tiles(problem), is_small(problem))


def is_small(problem: Problem) -> bool:
    """Return whether one thread is likely to be the fastest for a linear layer."""
    return problem.rows * problem.in_features * problem.out_features < SMALL_WORK
