"""What Apple's GPUs do at most, as it is published; of others, what torch measures on the device of the tensors."""

from typing import Any

from bitnet_jit.devices.apple import chip_of
from bitnet_jit.kernels.backend import Rates
from bitnet_jit.kernels.torch.limits import measure_rates


def rates_of(name: str, cores: int, device: Any) -> Rates:
    """Return the rates of a GPU by the name of its chip and its cores (0: all).

    >>> rates_of("Apple M4 Pro", 0, None)
    Rates(bytes=273000000000.0, operations=9200000000000.0, origin='published of Apple M4 Pro')
    """
    chip = chip_of(name, cores)
    return Rates(chip.bandwidth, chip.operations, f"published of {name}") if chip else measure_rates(device)
