"""How near the tuner comes to an exhaustive search, and to itself: for each problem every config of every kernel is
timed, and both efforts search among the same calls, "full" twice; then all that was chosen is timed once more together.

Ratios are of that last measurement: 1.03 is a choice that takes 3 % longer than the fastest of all.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bitnet_jit.checkpoints.loading import check_device
from bitnet_jit.devices.threads import set_num_threads
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import on
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import config_fields
from bitnet_jit.tuning.autotune import ROWS, compiling
from bitnet_jit.tuning.contenders import Contender, contenders, who_agree
from bitnet_jit.tuning.problems import problems_of_shapes
from bitnet_jit.tuning.search import EFFORTS, GAIN, Measure, medians, ranked, search
from bitnet_jit.tuning.synthetic import argument_sets
from bitnet_jit.tuning.tune import measure_with
from options import at_least_one, positive
from shapes import parse_shapes

EACH = 0.005  # seconds a config
BEST = 0.02  # for those that may be the best
LAST = 0.05
LEFT = 12  # of them
SEARCHES = ("quick", "full", "full")
OPS = ("bit_linear", "quantized_linear")


@dataclass(frozen=True)
class Line:
    """Of one problem; times in microseconds, all of one measurement. A search that found nothing has None.

    Attributes:
        competed: configs that ran and answered right.
        best: the fastest of all, with its kernel, config and time.
        usual: what runs untuned.
        found: what each of SEARCHES chose.
    """

    shape: str
    rows: int
    competed: int
    best: dict[str, Any]
    usual: dict[str, Any]
    found: list[dict[str, Any] | None]

    def ratios(self) -> list[float | None]:
        """Of each search's time to the best one."""
        return [one["microseconds"] / self.best["microseconds"] if one else None for one in self.found]


def compare(problem: Problem, found: Sequence[Contender], device: torch.device) -> Line:
    """One problem, with its contenders compiled."""
    sets = argument_sets(problem, device)
    able = who_agree(problem, found, sets[0])
    measure = measure_with([one.call for one in able if one.call is not None], sets)
    everyone = tuple(range(len(able)))
    near = ranked(medians(everyone, measure, EACH))[:LEFT]
    near = ranked(medians(near, measure, BEST))[:4]
    likely = {str(one) for one in contenders(problem)}
    quick = [number for number in everyone if str(able[number]) in likely]
    chosen = [choose(quick if effort == "quick" else everyone, measure, effort) for effort in SEARCHES]
    last = medians(sorted({0, *near, *(number for number in chosen if number is not None)}), measure, LAST)

    def told(number: int | None) -> dict[str, Any] | None:
        if number is None:
            return None
        one = able[number]
        return {"kernel": one.kernel.name, "config": config_fields(one.config), "microseconds": last[number]}

    best, usual = told(ranked(last)[0]), told(0)
    assert best is not None
    assert usual is not None
    shape = f"{problem.out_features}x{problem.in_features}"
    return Line(shape, problem.rows, len(able), best, usual, [told(number) for number in chosen])


def choose(among: Sequence[int], measure: Measure, effort: str) -> int | None:
    """What a search among those contenders chooses, of which the first is the usual one."""
    result = search(len(among), lambda numbers, s: measure([among[n] for n in numbers], s), EFFORTS[effort])
    return None if result is None else among[result.best]


def summary(lines: Sequence[Line]) -> Table:
    """Of all problems."""
    table = Table(title=f"{len(lines)} problems, {median(line.competed for line in lines):.0f} configs each")
    for heading in ("what", "within 5 %", "within 10 %", "median", "worst", "where"):
        table.add_column(heading, justify="left" if heading in ("what", "where") else "right")
    told: list[list[float | None]] = [
        [line.usual["microseconds"] / line.best["microseconds"], *line.ratios()] for line in lines
    ]
    for place, name in enumerate(("untuned", *SEARCHES)):
        pairs = [(ratios[place], line) for ratios, line in zip(told, lines, strict=True)]
        values = sorted(ratio for ratio, _ in pairs if ratio)
        if not values:
            table.add_row(name, "found nothing")
            continue
        worst = [f"{line.shape}, {line.rows} rows" for ratio, line in pairs if ratio == values[-1] > 1]
        where = " and ".join(worst[:2]) + (f" and {len(worst) - 2} more" if len(worst) > 2 else "")
        counts = [f"{sum(ratio <= limit for ratio in values)} of {len(lines)}" for limit in (1.05, 1.10)]
        table.add_row(name, *counts, f"{median(values):.3f}", f"{values[-1]:.3f}", where)
    return table


def same(lines: Sequence[Line]) -> str:
    """Whether the two full searches agree where it matters."""
    pairs = [(a, b) for _, a, b in (line.found for line in lines) if a and b]
    if not pairs:
        return "at no problem did both full searches find something"
    apart = [max(a["microseconds"] / b["microseconds"], b["microseconds"] / a["microseconds"]) for a, b in pairs]
    agree = sum((a["kernel"], a["config"]) == (b["kernel"], b["config"]) for a, b in pairs)
    return (
        f"both full searches found something at {len(pairs)} problems, and the same at {agree}; the times of what they "
        f"chose differ by at most {100 * max(apart) - 100:.1f} %"
    )


def gain(lines: Sequence[Line]) -> str:
    """What tuning brings."""
    pairs = [(line.usual, line.found[1]) for line in lines]
    gains = [usual["microseconds"] / found["microseconds"] for usual, found in pairs if found]
    if not gains:
        return "full tuning against the default: nothing was found"
    faster = [one for one in gains if one > GAIN]
    return (
        f"full tuning against the default: {median(gains):.3f} times as fast in the median of {len(gains)} problems, "
        f"{median(faster or [1.0]):.3f} in the median of the {len(faster)} where it gains something"
    )


def as_asked(problem: Problem, given: argparse.Namespace) -> Problem:
    """A problem of `bit_linear` as one of the op, layout and activation that the command line asks for."""
    if given.op == "bit_linear":
        usual = registry.preferred_layout(given.packing, problem.device_type)
    else:
        usual, problem = registry.training_layout(problem.device_type), replace(problem, op=given.op, x_dtype="int8")
    layout = usual if given.layout is None else registry.get_layout(given.layout)
    return replace(problem, layout=layout.name, activation=given.activation)


def run(arguments: Sequence[str] | None = None) -> list[Line]:
    """Compare, print the summary, and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    parser.add_argument("--shapes", nargs="+", type=parse_shapes, default=[parse_shapes("gpu")], metavar="OUTxIN")
    parser.add_argument("--rows", nargs="+", type=at_least_one, default=ROWS, metavar="M")
    parser.add_argument("--op", default="bit_linear", choices=OPS, help="quantized_linear is the product of training")
    parser.add_argument("--layout", metavar="NAME", help="of the packed weights (default: the op's usual one)")
    parser.add_argument("--packing", default="i2", choices=("i2", "t5"), help="of the weights (default: i2)")
    parser.add_argument("--activation", default="a8", choices=("a8", "a16"), help="int8 codes (default) or floats")
    parser.add_argument(
        "--threads", type=at_least_one, metavar="T", help="CPU threads (default: as many as torch uses)"
    )
    parser.add_argument("--seconds", type=positive, default=float("inf"), help="most that it may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args(arguments)
    if given.op != "bit_linear" and (given.packing, given.activation) != ("i2", "a8"):
        parser.error(f"--op {given.op} is of i2 weights and int8 codes")
    set_num_threads(given.threads)
    device, start, lines = check_device(given.device), time.monotonic(), []
    shapes = [(shape.out_features, shape.in_features) for group in given.shapes for shape in group]
    problems = [as_asked(problem, given) for problem in problems_of_shapes(shapes, given.rows, device)]
    with on(device), torch.no_grad(), compiling(problems, device, wide=True) as ready:
        for problem in track(problems, "searching", console=Console(stderr=True)):
            if time.monotonic() - start > given.seconds:
                break
            lines.append(compare(problem, ready(problem), device))
            if given.json:
                given.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    console = Console(width=120)
    console.print(summary(lines))
    console.print(same(lines), gain(lines), sep="\n")
    console.print(f"{time.monotonic() - start:.0f} s")
    return lines


if __name__ == "__main__":
    run()
