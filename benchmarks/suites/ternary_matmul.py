"""The ternary matmul alone, on codes that are there.

Ours is the kernel that the dispatcher chooses, called without torch's dispatch, on both packings: `kernel` gives int32
sums, `product` is what bit_linear runs behind its quantizer, scaled to bfloat16. Beside it torch._int_mm on the
unpacked weight, and on a GPU (--device cuda) cuBLAS in bfloat16 and float8, gemlite, and our whole layer. Every result
is compared with the right one first. On a GPU calls are captured in CUDA graphs, and weights come from memory.
"""

from collections.abc import Sequence

from benchmarks.harness.report import Report
from benchmarks.harness.runner import main
from benchmarks.providers.linear import MATMUL, PROVIDERS


def run(arguments: Sequence[str] | None = None) -> Report:
    """Measure, print, and write the files that the command line asks for."""
    return main(__doc__, {"ternary_matmul": list(PROVIDERS.values())}, MATMUL, arguments)
