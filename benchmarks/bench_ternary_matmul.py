"""The ternary matmul alone: int8 codes in, int32 sums out.

Ours is the kernel that the dispatcher chooses, called without torch's dispatch, on both packings; beside it
torch._int_mm on the unpacked weight. Every result is compared with the exact sums first.
"""

from collections.abc import Sequence

from providers import MATMUL, PROVIDERS
from report import Report
from runner import main


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, {"ternary_matmul": [PROVIDERS[name] for name in MATMUL]}, MATMUL, arguments)


if __name__ == "__main__":
    run()
