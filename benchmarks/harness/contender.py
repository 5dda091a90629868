"""Contenders of a benchmark: providers build them for a piece of work, and are refused where the result is wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.work import Work


@dataclass(frozen=True)
class Contender:
    """A provider bound to a piece of work.

    Attributes:
        run: does the work once, on the weight copy of that number (any whole number).
        result: returns the last run's result as a NumPy array.
        num_bytes: read from memory per run: the packed weight, or all tensors of row-wise work.
        num_ops: multiplications and additions per run; 0 where nobody counts them.
        set_threads: sets the number of CPU threads of the next runs.
        max_calls: per turn; limits run long and need few.
        copies: of the weight; runs take them in turn.
    """

    name: str
    run: Callable[[int], Any]
    result: Callable[[], NDArray[Any]]
    num_bytes: int
    num_ops: int
    set_threads: Callable[[int], None]
    max_calls: int = 2000
    copies: int = 1


@dataclass(frozen=True)
class Provider:
    """One way to do the work.

    Attributes:
        name: as in --providers.
        build: (work, copies of the weight) -> Contender.
        expected: work -> the right answer.
        tolerance: largest relative error in the Frobenius norm; 0 asks for equality bit for bit.
        num_bytes: work -> Contender.num_bytes, before the contender is built.
        unsupported_reason: work -> None, or the reason why it cannot be done.
        half_tolerance: the same where work is done in bfloat16, if it differs.
    """

    name: str
    build: Callable[[Work, int], Contender]
    expected: Callable[[Work], NDArray[Any]]
    tolerance: float
    num_bytes: Callable[[Work], int]
    unsupported_reason: Callable[[Work], str | None] = field(default=lambda _: None)
    half_tolerance: float | None = None


def wrong_reason(provider: Provider, contender: Contender, work: Work) -> str | None:
    """Run once and compare: return None where the result is right, else the words for what is wrong with it."""
    contender.run(0)
    result, expected = contender.result(), provider.expected(work)
    if result.shape != expected.shape:
        return f"wrong result: shape {result.shape}, expected {expected.shape}"
    in_halves = provider.half_tolerance is not None and work.dtype == torch.bfloat16
    tolerance = provider.half_tolerance if in_halves else provider.tolerance
    if tolerance == 0:
        different = np.count_nonzero(result != expected)
        return f"wrong result: {different} of {result.size} values differ" if different else None
    error = np.linalg.norm((result - expected).astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))
    if not error <= tolerance:
        return f"wrong result: relative error {error:.2g}, at most {tolerance:.2g} is allowed"
    return None
