"""The ternary matmul alone, on codes that are there.

Ours is the kernel that the dispatcher chooses, called without torch's dispatch, on both packings: `kernel` gives int32
sums, `product` is what bit_linear runs behind its quantizer, scaled to bfloat16. Beside it torch._int_mm on the
unpacked weight, and on a GPU (--device cuda) cuBLAS in bfloat16 and float8, gemlite, and our whole layer. Every result
is compared with the right one first. On a GPU calls are captured in CUDA graphs, and weights come from memory.
"""

from collections.abc import Sequence

from providers import MATMUL, PROVIDERS
from report import Report
from runner import main


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, {"ternary_matmul": list(PROVIDERS.values())}, MATMUL, arguments)


if __name__ == "__main__":
    run()
