"""Row-wise ops: activation quantization, RMSNorm, RMSNorm + quantize, relu(gate)^2 * up or silu(gate) * up before that.

Each against the same formula in plain torch operations, RMSNorm also against that of torch. Of a shape OUTxIN the
inputs are the features of a row. Every result is compared with the reference first.
"""

from collections.abc import Sequence

from options import Usual
from providers_norm import ON_GPU, PROVIDERS, USUAL
from report import Report
from runner import main

GPU = Usual(ON_GPU, "norms", (1, 16, 2048, 8192), 1, ("hot",), (1,))


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, PROVIDERS, {"cpu": Usual(USUAL, shapes="norms"), "cuda": GPU}, arguments)


if __name__ == "__main__":
    run()
