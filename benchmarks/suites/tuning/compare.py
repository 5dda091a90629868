"""One problem under both efforts of the tuner and an exhaustive search: most internals of the tuner stand here."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.suites.tuning.line import SEARCHES, Line
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import config_fields
from bitnet_jit.tuning.contenders import Contender, agreeing, contenders
from bitnet_jit.tuning.search import EFFORTS, Measure, medians, ranked, search
from bitnet_jit.tuning.synthetic import argument_sets

EACH = 0.005  # seconds per config
BEST = 0.02  # per config that may be the best
LAST = 0.05
MAX_BEST = 12  # configs that may be the best


def compare(problem: Problem, competing: Sequence[Contender], device: torch.device) -> Line:
    """Return the figures of one problem, whose contenders are compiled, the default one first."""
    sets = argument_sets(problem, device)
    able = agreeing(problem, competing, sets[0], device)
    measure = kind_of(device).measure([contender.call for contender in able if contender.call is not None], sets)
    everyone = tuple(range(len(able)))
    near = ranked(medians(everyone, measure, EACH))[:MAX_BEST]
    near = ranked(medians(near, measure, BEST))[:4]
    likely = {str(contender) for contender in contenders(problem)}
    quick = [number for number in everyone if str(able[number]) in likely]
    choices = [choose(quick if effort == "quick" else everyone, measure, effort) for effort in SEARCHES]
    last = medians(sorted({0, *near, *(number for number in choices if number is not None)}), measure, LAST)

    def figures(number: int) -> dict[str, Any]:
        contender = able[number]
        fields = config_fields(contender.config)
        return {"kernel": contender.kernel.name, "config": fields, "microseconds": last[number]}

    shape = f"{problem.out_features}x{problem.in_features}"
    chosen = [None if number is None else figures(number) for number in choices]
    return Line(shape, problem.rows, len(able), figures(ranked(last)[0]), figures(0), chosen)


def choose(among: Sequence[int], measure: Measure, effort: str) -> int | None:
    """Return the choice of a search among those contenders, the default one first; None where it is undecided."""
    result = search(len(among), lambda numbers, s: measure([among[n] for n in numbers], s), EFFORTS[effort])
    return None if result is None else among[result.best]
