"""Run every benchmark of this machine's CPU with its defaults; keep figures and pictures in a folder named by the CPU.

All other options of the command line go to each of them: `run_all.py --results FOLDER --seconds 0.2 --threads 2`. Whole
models of large sizes are measured where `--only decode` asks for them.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.harness.options import new_parser
from benchmarks.suites import bit_linear, decode, model, rms_norm, ternary_matmul
from bitnet_jit.devices.cpu import cpu_name

SUITES = {
    "ternary_matmul": ternary_matmul.run,
    "bit_linear": bit_linear.run,
    "rms_norm": rms_norm.run,
    "model": model.run,
    "decode": decode.run,
}
ONLY_IF_ASKED = ("decode",)  # takes many minutes, and options of its own


def folder_name(name: str) -> str:
    """Return the CPU's name as a folder: "AMD EPYC 9R14" -> "amd-epyc-9r14"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def main() -> None:
    parser = new_parser(__doc__)
    usual = [name for name in SUITES if name not in ONLY_IF_ASKED]
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=SUITES, default=usual, metavar="NAME")
    given, others = parser.parse_known_args()
    folder = given.results / folder_name(cpu_name())
    for name in given.only:
        files = ["--json", str(folder / f"{name}.json"), "--picture", str(folder / f"{name}.png")]
        SUITES[name]([*files, *others])


if __name__ == "__main__":
    main()
