"""Loading a model: seconds from its files to a decoder that is ready, beside a plain read of the same bytes.

Files of random weights are written into a temporary folder, one for each type of GGUF in --formats; --models takes
files and folders of any format. Both contenders take turns, so that a machine that slows down slows both; the least of
each counts. The plain read goes into fresh memory, as a load does, with the files in the system's cache. The peak is
that of the process while it loads, less what it held before.
"""

import argparse
import mmap
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import bitnet_jit
from benchmarks.harness.models.memory import with_peak
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.options import at_least_one, new_parser
from benchmarks.harness.report import Report, header, write
from bitnet_jit.checkpoints.formats.gguf.target import NAMES, GgufTarget
from bitnet_jit.checkpoints.formats.gguf.writing import write_file
from bitnet_jit.checkpoints.formats.reader import Chat
from bitnet_jit.checkpoints.formats.registry import format_of
from bitnet_jit.errors import CheckpointWarning
from bitnet_jit.system.cores import available_cores

PIECE_BYTES = 2**24  # of a plain read, per call of the system


@dataclass(frozen=True)
class Load:
    """The figures of one model.

    Attributes:
        model: a type of GGUF, or a path.
        num_bytes: of the files with its weights.
        read_seconds, load_seconds: the least of all turns.
        peak_bytes: beyond what the process held before, the largest of all turns; None where the system does not tell.
    """

    model: str
    num_bytes: int
    read_seconds: float
    load_seconds: float
    peak_bytes: int | None

    @property
    def ratio(self) -> float:
        """Return how many times as long as a plain read a load takes."""
        return self.load_seconds / self.read_seconds


def write_random(shape: ModelShape, format: str, file: Path) -> Path:
    """Write random weights as a GGUF file of a type, and return it."""
    target = GgufTarget(format, lossy=True)
    with shape.open_reader() as reader, file.open("wb") as out:
        write_file(out, target.metadata(reader, Chat(None, {}), shape.name), list(target.tensors(reader)))
    return file


def read_plainly(files: Sequence[Path]) -> int:
    """Read files into fresh memory; return their bytes."""
    size = sum(file.stat().st_size for file in files)
    with mmap.mmap(-1, size) as memory, memoryview(memory) as view:
        at = 0
        for path in files:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(view[at : at + PIECE_BYTES]):
                    at += count
    return size


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(model: str, path: Path, turns: int) -> Load:
    """Read and load a model in turns."""
    files = format_of(path).weight_files(path)
    size, reads, loads, peaks = read_plainly(files), [], [], []
    bitnet_jit.load(path)  # kernels are compiled, or come from the disk
    for _ in range(turns):
        reads.append(seconds_of(lambda: read_plainly(files)))
        taken, peak = with_peak(lambda: seconds_of(lambda: bitnet_jit.load(path)), "cpu")
        loads.append(taken)
        peaks.append(peak)
    known = [peak for peak in peaks if peak is not None]
    return Load(model, size, min(reads), min(loads), max(known) if known else None)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    random = [name for name in SHAPES if name != "tiny"]
    add("--shape", choices=random, default="2b-4t", help="of the random weights (default: 2b-4t)")
    add("--formats", nargs="*", choices=NAMES, default=["i2_s", "tq2_0", "tq1_0"], help="default: i2_s tq2_0 tq1_0")
    add("--models", nargs="*", type=Path, default=[], metavar="PATH", help="models to be loaded besides")
    add("--threads", type=at_least_one, default=available_cores(), help="of the CPU (default: all cores)")
    add("--turns", type=at_least_one, default=5, help="default: 5")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> "Report[Load]":
    """Measure, print, and write the file that the command line asks for."""
    given = parse(arguments)
    rows: list[Load] = []
    torch.set_num_threads(given.threads)
    print(f"{'model':24} {'MB':>8} {'read s':>8} {'load s':>8} {'ratio':>6} {'peak MB':>8}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # random weights have the densities of random weights
        for name in (*given.formats, *given.models):
            is_path = isinstance(name, Path)
            path = name if is_path else write_random(SHAPES[given.shape], name, Path(folder, f"{name}.gguf"))
            row = measure(str(name), path, given.turns)
            peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
            times = f"{row.read_seconds:8.3f} {row.load_seconds:8.3f} {row.ratio:6.2f}"
            print(f"{row.model[-24:]:24} {row.num_bytes / 1e6:8.0f} {times} {peak:>8}", flush=True)
            rows.append(row)
            if not is_path:
                os.remove(path)
    report = Report(header(command=shlex.join(sys.argv), device="cpu"), tuple(rows), ())
    if given.json:
        write(report, given.json)
    return report
