"""A whole linear layer, float32 in and out, ours against everybody else's.

Ours quantizes the activations, multiplies and scales, in one torch op; `kernel` is its matmul alone, to tell what the
rest costs. Beside it torch in float32, bfloat16 and dynamic int8, and TQ2_0 and Q4_0 of ggml. A contender whose result
is wrong for its number format is refused.
"""

from collections.abc import Sequence

from providers import LAYER, PROVIDERS
from report import Report
from runner import main


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, {"bit_linear": list(PROVIDERS.values())}, ("bitnet_jit", "kernel", *LAYER[1:]), arguments)


if __name__ == "__main__":
    run()
