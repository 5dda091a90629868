"""Refusals that the linear kernels share: problem -> None, or in words why a kernel cannot run it."""

from collections.abc import Callable

from bitnet_jit.kernels.metal.layout import I2_WORDS, WORD
from bitnet_jit.problem import Problem

MAX_EXACT_INPUTS = 2**17 - 1  # below this every partial sum of codes of a row is a whole number under 2^24
Refusal = Callable[[Problem], str | None]


def layout_unsupported_reason(problem: Problem) -> str | None:
    """Return why no linear kernel reads the weight, or None."""
    if problem.layout != I2_WORDS.name:
        return f"reads the layout {I2_WORDS.name}, not {problem.layout!r}"
    return None


def codes_unsupported_reason(problem: Problem) -> str | None:
    """Return why codes cannot be added up in float32, or None."""
    if problem.activation != "a16" and problem.in_features > MAX_EXACT_INPUTS:
        return f"adds codes in float32, exactly up to K = {MAX_EXACT_INPUTS}, got K = {problem.in_features}"
    return None


def codes_refused(problem: Problem) -> str | None:
    """Return why a kernel on codes refuses, or None."""
    return "serves activation='a8' and 'a8g'" if problem.activation == "a16" else None


def groups_of_x_refused(problem: Problem) -> str | None:
    """Return why a kernel refuses activations with scales per group behind a norm, or None."""
    return "quantizes a norm's output by rows: activation='a8'" if problem.activation == "a8g" else None


def floats_refused(problem: Problem) -> str | None:
    """Return why a kernel on activations in floating point refuses, or None."""
    return None if problem.activation == "a16" else "serves activation='a16'"


def groups_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel that takes words of one scale refuses groups, or None."""
    if problem.scale == "group" and problem.group_size % WORD and problem.group_size < problem.in_features:
        return f"takes groups of a multiple of {WORD} inputs, not of {problem.group_size}"
    return None


def all_of(*refusals: Refusal) -> Refusal:
    """Return the refusal of every problem that one of these refuses, in the words of the first."""
    return lambda problem: next((words for refusal in refusals if (words := refusal(problem))), None)


unsupported_reason = all_of(layout_unsupported_reason, codes_unsupported_reason, groups_unsupported_reason)
