"""The command line that all benchmarks share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_jit.runtime.device import available_cores
from shapes import GROUPS, Shape, parse_shapes

CACHES = ("hot", "cold")


@dataclass(frozen=True)
class Options:
    """What to run and where the figures go.

    Attributes:
        cache: "hot" runs on one weight again and again; "cold" on many copies in turn, so that each comes from memory.
        cold_rows: the largest number of rows that is measured cold; above it arithmetic is the limit, not memory.
        seconds: for each contender of a case.
    """

    device: str
    shapes: tuple[Shape, ...]
    rows: tuple[int, ...]
    threads: tuple[int, ...]
    providers: tuple[str, ...]
    cache: tuple[str, ...]
    cold_rows: int
    seconds: float
    json: Path | None
    picture: Path | None


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def parse(
    description: str, known: Sequence[str], usual: Sequence[str], shapes: str, arguments: Sequence[str] | None
) -> Options:
    """Options from the command line.

    Args:
        description: what the benchmark is; its docstring.
        known: names of all providers.
        usual: those that run by default.
        shapes: the group of shapes that runs by default.
        arguments: as in sys.argv[1:], which None means.
    """
    cores = available_cores()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add(
        "--shapes",
        nargs="+",
        type=parse_shapes,
        default=[GROUPS[shapes]],
        metavar="OUTxIN",
        help=f"such as 2560x6912 for 2560 outputs, or a group: {', '.join(GROUPS)} (default: {shapes})",
    )
    add("--rows", nargs="+", type=at_least_one, default=[1, 16, 128, 512], metavar="M", help="default: 1 16 128 512")
    add(
        "--threads",
        nargs="+",
        type=at_least_one,
        default=sorted({1, cores}),
        metavar="T",
        help=f"CPU threads (default: 1 and all {cores})",
    )
    add("--providers", nargs="+", choices=known, default=list(usual), metavar="NAME", help=f"of {', '.join(known)}")
    add("--cache", nargs="+", choices=CACHES, default=list(CACHES), help="default: hot and cold")
    add("--cold-rows", type=at_least_one, default=16, metavar="M", help="most rows measured cold (default: 16)")
    add("--seconds", type=positive, default=0.5, help="for each contender of a case (default: 0.5)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--picture", type=Path, metavar="FILE", help="draw the medians there, as .png or .svg")
    given = parser.parse_args(arguments)
    fields = vars(given) | {"shapes": [shape for group in given.shapes for shape in group]}
    return Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
