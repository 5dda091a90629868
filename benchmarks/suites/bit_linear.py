"""A whole linear layer, ours against everybody else's: float32 in and out on the CPU, bfloat16 on a GPU.

Ours quantizes the activations, multiplies and scales, in one torch op; `kernel` is its matmul alone, to tell what the
rest costs. Beside it, on the CPU, torch in float32, bfloat16 and dynamic int8, and TQ2_0 and Q4_0 of ggml; on a GPU
torch in bfloat16 and gemlite. A contender whose result is wrong for its number format is refused.
"""

from collections.abc import Sequence

from benchmarks.harness.report import Report
from benchmarks.harness.runner import main
from benchmarks.providers.linear import LAYER, PROVIDERS


def run(arguments: Sequence[str] | None = None) -> Report:
    """Measure, print, and write the files that the command line asks for."""
    return main(__doc__, {"bit_linear": list(PROVIDERS.values())}, LAYER, arguments)
