"""Refusals that the linear kernels share: problem -> None, or in words why a kernel cannot run it."""

from collections.abc import Callable

from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.layout import CHUNK, I2_LAYOUTS, PLANES, in_chunks
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

Refusal = Callable[[Problem], str | None]


def unsupported_reason(problem: Problem) -> str | None:
    """Return why no kernel of the linear ops can run a problem, or None."""
    if problem.layout not in PLANES:
        return f"reads the layouts {' and '.join(PLANES)}, not {problem.layout!r}"
    if problem.in_features >= MAX_IN_FEATURES and problem.op in ("quantized_linear", "ternary_matmul"):
        return f"takes given codes of fewer than {MAX_IN_FEATURES} inputs: 64 times their sum must fit in 32 bits"
    return target.unsupported_reason(problem.gpu)


def groups_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel for scales of tensors or rows refuses, or None."""
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None


def i2_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel for i2 with scales of tensors or rows refuses, or None."""
    if problem.layout not in I2_LAYOUTS:
        return f"reads the layouts {' and '.join(I2_LAYOUTS)}, not {problem.layout!r}"
    return groups_unsupported_reason(problem)


def planes_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel that reads planes of whole rows refuses, or None."""
    return f"reads planes of whole rows, not {problem.layout}" if in_chunks(problem) else None


def codes_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel that multiplies codes refuses, or None."""
    if problem.activation == "a8g":
        return "takes int8 activations with one scale per row, not one per group (a8g)"
    return "serves activation='a8'" if problem.activation == "a16" else None


def floats_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel that multiplies floats refuses, or None."""
    return "serves activation='a16'" if problem.activation in ("a8", "a8g") else None


def runs_unsupported_reason(problem: Problem) -> str | None:
    """Return why a kernel whose products are of whole runs of CHUNK inputs refuses groups, or None."""
    if problem.group_size % CHUNK:
        return f"takes groups of a multiple of {CHUNK} inputs, not of {problem.group_size}"
    return None


def takes_rows(fewest: int, most: int | None = None) -> Refusal:
    """Return a refusal of every other number of rows."""
    words = f"takes {fewest} rows and more" if most is None else f"takes {fewest} to {most} rows"
    return lambda problem: None if fewest <= problem.rows <= (most or problem.rows) else words


def all_of(*refusals: Refusal) -> Refusal:
    """Return the refusal of every problem that one of these refuses, in the words of the first."""
    return lambda problem: next((reason for refusal in refusals if (reason := refusal(problem))), None)
