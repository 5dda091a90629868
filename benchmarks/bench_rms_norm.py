"""Row-wise ops: activation quantization, RMSNorm, RMSNorm + quantize, and relu(gate)^2 * up + RMSNorm + quantize.

Each against the same formula in plain torch operations, RMSNorm also against that of torch. Of a shape OUTxIN the
inputs are the features of a row. Every result is compared with the reference first.
"""

from collections.abc import Sequence

from options import Usual
from providers_norm import PROVIDERS, USUAL
from report import Report
from runner import main

ON_GPU = Usual(USUAL, "norms", (1, 16, 2048, 8192), 1, ("hot",), (1,))


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, PROVIDERS, {"cpu": Usual(USUAL, shapes="norms"), "cuda": ON_GPU}, arguments)


if __name__ == "__main__":
    run()
