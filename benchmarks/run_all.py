"""Runs every benchmark with its defaults, on this machine, and keeps figures and pictures in a folder named by its CPU.

What else stands on the command line goes to each of them: `run_all.py --results FOLDER --seconds 0.2 --threads 2`.
"""

import argparse
import re
from pathlib import Path

import bench_bit_linear
import bench_model
import bench_rms_norm
import bench_ternary_matmul
from bitnet_jit.devices.cpu import cpu_name

BENCHMARKS = {
    "ternary_matmul": bench_ternary_matmul.run,
    "bit_linear": bench_bit_linear.run,
    "rms_norm": bench_rms_norm.run,
    "model": bench_model.run,
}


def folder_name(name: str) -> str:
    """The CPU's name as a folder: "AMD EPYC 9R14" -> "amd-epyc-9r14"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    given, others = parser.parse_known_args()
    folder = given.results / folder_name(cpu_name())
    for name in given.only:
        files = ["--json", str(folder / f"{name}.json"), "--picture", str(folder / f"{name}.png")]
        BENCHMARKS[name]([*files, *others])


if __name__ == "__main__":
    main()
