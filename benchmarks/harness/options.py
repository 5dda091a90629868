"""The command line that benchmarks share."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.harness.shapes import GROUPS, Shape, parse_shapes
from bitnet_jit.system.cores import available_cores

CACHES = ("hot", "cold")


@dataclass(frozen=True)
class Defaults:
    """Defaults of a benchmark on one type of device.

    Attributes:
        providers: their names; the first is what ratios refer to.
        shapes: the name of a group.
        rows: numbers of them.
        cold_rows: the largest number of rows that is measured cold.
        cache: states of it.
        threads: numbers of CPU threads; None is 1 and all.
    """

    providers: Sequence[str]
    shapes: str = "default"
    rows: tuple[int, ...] = (1, 16, 128, 512)
    cold_rows: int = 16
    cache: tuple[str, ...] = CACHES
    threads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Options:
    """Options of a run: what is measured, and where the figures go.

    Attributes:
        cache: "hot" runs on one weight again and again; "cold" on many copies in turn, so that each comes from memory.
        cold_rows: the largest number of rows that is measured cold; above it arithmetic is the limit, not memory.
        seconds: per contender of a case.
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
    roofline: Path | None


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


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the description as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that name files for the figures."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the medians there, as .png or .svg")


def add_cases(parser: argparse.ArgumentParser, known: Sequence[str], on_cpu: Defaults) -> None:
    """Add the options that say what is measured; those that are left out stay None."""
    add, rows = parser.add_argument, " ".join(map(str, on_cpu.rows))
    shapes = f"such as 2560x6912 for 2560 outputs, or a group: {', '.join(GROUPS)} (default: {on_cpu.shapes})"
    cold_rows = f"most rows measured cold (default: {on_cpu.cold_rows}; on a GPU all)"
    add("--shapes", nargs="+", type=parse_shapes, metavar="OUTxIN", help=shapes)
    add("--rows", nargs="+", type=at_least_one, metavar="M", help=f"default: {rows}; on a GPU more")
    threads = f"CPU threads (default: 1 and all {available_cores()})"
    add("--threads", nargs="+", type=at_least_one, metavar="T", help=threads)
    add("--providers", nargs="+", choices=known, metavar="NAME", help=f"of {', '.join(known)}")
    add("--cache", nargs="+", choices=CACHES, help="default: hot and cold; on a GPU cold")
    add("--cold-rows", type=at_least_one, metavar="M", help=cold_rows)


def parse(
    description: str | None, known: Sequence[str], defaults: Mapping[str, Defaults], arguments: Sequence[str] | None
) -> Options:
    """Return the options of a command line.

    Args:
        description: the benchmark's docstring.
        known: names of all providers.
        defaults: by the type of the device; those of "cpu" hold for every other type.
        arguments: as in sys.argv[1:], which None means.
    """
    parser = new_parser(description)
    parser.add_argument("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add_cases(parser, known, defaults["cpu"])
    parser.add_argument("--seconds", type=positive, default=0.5, help="per contender of a case (default: 0.5)")
    add_files(parser)
    parser.add_argument(
        "--roofline", type=Path, metavar="FILE", help="draw operations per second over operations per byte there"
    )
    values = vars(parser.parse_args(arguments))
    default = defaults.get(values["device"].partition(":")[0], defaults["cpu"])
    for field in fields(default):
        if values[field.name] is None and field.name != "shapes":
            values[field.name] = getattr(default, field.name)
    groups = values["shapes"] or [GROUPS[default.shapes]]
    values["shapes"] = [shape for group in groups for shape in group]
    values["threads"] = values["threads"] or sorted({1, available_cores()})
    return Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
