"""The command line that all benchmarks share."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_jit.system.cores import available_cores
from shapes import GROUPS, Shape, parse_shapes

CACHES = ("hot", "cold")


@dataclass(frozen=True)
class Usual:
    """What runs by default on a kind of device.

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


def parse(
    description: str, known: Sequence[str], usual: Mapping[str, Usual], arguments: Sequence[str] | None
) -> Options:
    """Options from the command line.

    Args:
        description: what the benchmark is; its docstring.
        known: names of all providers.
        usual: what runs by default, by the type of the device; that of "cpu" holds for every other type.
        arguments: as in sys.argv[1:], which None means.
    """
    cores = available_cores()
    on_cpu = usual["cpu"]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add(
        "--shapes",
        nargs="+",
        type=parse_shapes,
        metavar="OUTxIN",
        help=f"such as 2560x6912 for 2560 outputs, or a group: {', '.join(GROUPS)} (default: {on_cpu.shapes})",
    )
    rows = " ".join(map(str, on_cpu.rows))
    add("--rows", nargs="+", type=at_least_one, metavar="M", help=f"default: {rows}; on a GPU more")
    add("--threads", nargs="+", type=at_least_one, metavar="T", help=f"CPU threads (default: 1 and all {cores})")
    add("--providers", nargs="+", choices=known, metavar="NAME", help=f"of {', '.join(known)}")
    add("--cache", nargs="+", choices=CACHES, help="default: hot and cold; on a GPU cold")
    add(
        "--cold-rows",
        type=at_least_one,
        metavar="M",
        help=f"most rows measured cold (default: {on_cpu.cold_rows}; on a GPU all)",
    )
    add("--seconds", type=positive, default=0.5, help="for each contender of a case (default: 0.5)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--picture", type=Path, metavar="FILE", help="draw the medians there, as .png or .svg")
    add("--roofline", type=Path, metavar="FILE", help="draw operations a second over operations a byte there")
    given = parser.parse_args(arguments)
    default = usual.get(given.device.partition(":")[0], on_cpu)
    fields = {
        name: getattr(default, name) if value is None else value
        for name, value in vars(given).items()
        if name in vars(default)
    }
    fields = vars(given) | fields
    fields["shapes"] = GROUPS[default.shapes] if given.shapes is None else [s for group in given.shapes for s in group]
    fields["threads"] = fields["threads"] or sorted({1, cores})
    return Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
