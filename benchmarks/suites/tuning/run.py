"""The tuner beside an exhaustive search, and beside itself: for each problem every config of every kernel is timed, and
both efforts search among the same calls, "full" twice; then all choices are timed once more together.

Ratios are of that last measurement: 1.03 is a choice that takes 3 % longer than the fastest of all.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.harness.options import at_least_one, new_parser, positive
from benchmarks.harness.shapes import parse_shapes
from benchmarks.suites.tuning.compare import compare
from benchmarks.suites.tuning.line import Line, agreement, gain, summary
from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import set_num_threads
from bitnet_jit.kernels import registry
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.autotune import ROWS, compiling
from bitnet_jit.tuning.problems import problems_of_shapes

OPS = ("bit_linear", "quantized_linear")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add("--shapes", nargs="+", type=parse_shapes, default=[parse_shapes("gpu")], metavar="OUTxIN")
    add("--rows", nargs="+", type=at_least_one, default=ROWS, metavar="M")
    add("--op", default="bit_linear", choices=OPS, help="quantized_linear is the product of training")
    add("--layout", metavar="NAME", help="of the packed weights (default: the op's own)")
    add("--packing", default="i2", choices=("i2", "t5"), help="of the weights (default: i2)")
    add("--activation", default="a8", choices=("a8", "a16"), help="int8 codes (default) or floats")
    add("--threads", type=at_least_one, metavar="T", help="CPU threads (default: as many as torch uses)")
    add("--seconds", type=positive, default=float("inf"), help="most that it may take")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args(arguments)
    if given.op != "bit_linear" and (given.packing, given.activation) != ("i2", "a8"):
        parser.error(f"--op {given.op} is of i2 weights and int8 codes")
    return given


def as_asked(problem: Problem, given: argparse.Namespace) -> Problem:
    """Turn a problem of `bit_linear` into one of the op, layout and activation that the command line asks for."""
    if given.op == "bit_linear":
        layout = registry.preferred_layout(given.packing, problem.device_type)
    else:
        layout, problem = registry.training_layout(problem.device_type), replace(problem, op=given.op, x_dtype="int8")
    layout = layout if given.layout is None else registry.get_layout(given.layout)
    return replace(problem, layout=layout.name, activation=given.activation)


def run(arguments: Sequence[str] | None = None) -> list[Line]:
    """Compare, print the summary, and return the figures."""
    given = parse(arguments)
    set_num_threads(given.threads)
    device, start, lines = check_device(given.device), time.monotonic(), []
    shapes = [(shape.out_features, shape.in_features) for group in given.shapes for shape in group]
    problems = [as_asked(problem, given) for problem in problems_of_shapes(shapes, given.rows, device)]
    with kind_of(device).current(device), torch.no_grad(), compiling(problems, device, wide=True) as ready:
        for problem in track(problems, "searching", console=Console(stderr=True)):
            if time.monotonic() - start > given.seconds:
                break
            lines.append(compare(problem, ready(problem), device))
            if given.json:
                given.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    console = Console(width=120)
    console.print(summary(lines))
    console.print(agreement(lines), gain(lines), sep="\n")
    console.print(f"{time.monotonic() - start:.0f} s")
    return lines
