"""Row-wise ops: activation quantization, RMSNorm and its gradients, RMSNorm + quantize, behind relu2 or SiLU products.

Each against the same formula in plain torch operations, RMSNorm also against that of torch. Of a shape OUTxIN the
inputs are the features of a row. Every result is compared with the reference first.
"""

from collections.abc import Sequence

from benchmarks.harness.report import Report
from benchmarks.harness.runner import main
from benchmarks.providers.norm import DEFAULTS, PROVIDERS


def run(arguments: Sequence[str] | None = None) -> Report:
    """Measure, print, and write the files that the command line asks for."""
    return main(__doc__, PROVIDERS, DEFAULTS, arguments)
