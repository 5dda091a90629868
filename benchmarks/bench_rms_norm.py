"""Row-wise ops: activation quantization, RMSNorm and its gradients, RMSNorm + quantize, behind relu2 or SiLU products.

Each against the same formula in plain torch operations, RMSNorm also against that of torch. Of a shape OUTxIN the
inputs are the features of a row. Every result is compared with the reference first.
"""

from collections.abc import Sequence

from providers_norm import PROVIDERS, USUAL
from report import Report
from runner import main


def run(arguments: Sequence[str] | None = None) -> Report:
    return main(__doc__, PROVIDERS, USUAL, arguments)


if __name__ == "__main__":
    run()
