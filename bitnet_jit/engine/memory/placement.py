"""`AllocationStrategy`: where rows wait for a model on another device, and where its results stay."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class AllocationStrategy(Enum):
    """Which memory an engine prefers for inputs and results of models.

    AUTOMATIC joins rows on the CPU and copies them through page-locked memory, where they are large enough for it;
    results go to the device of the inputs. PREFER_CPU takes no page-locked memory, and results go to the CPU.
    PREFER_GPU copies each input as it is and joins rows on the model's device, where results stay. MINIMIZE_TRANSFERS
    joins rows on the CPU, so that a batch is one copy, and leaves results on the model's device.
    """

    PREFER_CPU = "prefer_cpu"
    PREFER_GPU = "prefer_gpu"
    AUTOMATIC = "automatic"
    MINIMIZE_TRANSFERS = "minimize_transfers"


@dataclass(frozen=True)
class Placement:
    """What a strategy decides.

    Attributes:
        joins: where rows of several inputs are joined: on their device, or on the model's.
        staged: whether large copies go through page-locked memory, beside the device's work.
        results: where they stay: on the device of the inputs, on the CPU, or on the model's device.
    """

    joins: Literal["inputs", "model"]
    staged: bool
    results: Literal["inputs", "cpu", "model"]


PLACEMENTS = {
    AllocationStrategy.AUTOMATIC: Placement("inputs", True, "inputs"),
    AllocationStrategy.PREFER_CPU: Placement("inputs", False, "cpu"),
    AllocationStrategy.PREFER_GPU: Placement("model", True, "model"),
    AllocationStrategy.MINIMIZE_TRANSFERS: Placement("inputs", True, "model"),
}
