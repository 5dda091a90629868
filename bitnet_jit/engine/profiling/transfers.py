"""Compare copies to a device and back through page-locked buffers with plain ones, size by size."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.clock import in_turns
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.memory.placement import AllocationStrategy
from bitnet_jit.engine.profiling.comparison import Comparison, call, compare

FEATURES = 1024
SECONDS = 0.05  # per way
SIZES = (2**16, 2**18, 2**20, 2**22, 2**24, 2**26)


class Scale(nn.Module):
    """Doubles its input: next to nothing beside the copies."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), 2.0, device=device), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return 2 x."""
        return x * self.factor


def compare_staging(device: torch.device | str, sizes: Sequence[int] = SIZES) -> tuple[Comparison, ...]:
    """Return, for tensors of so many bytes each, what a call takes with plain copies and with staged ones.

    Args:
        device: to which CPU tensors are copied, and from which results come back.
        sizes: bytes of float32; at least one row of 1,024 is copied.

    >>> [way.name for way in compare_staging("cpu", [2**12])[0].ways]
    ['plain', 'staged']
    """
    model = Scale(check_device(device))
    ways = {"plain": AllocationStrategy.PREFER_CPU, "staged": AllocationStrategy.AUTOMATIC}
    comparisons = []
    for num_bytes in sizes:
        x = torch.ones(max(1, num_bytes // (4 * FEATURES)), FEATURES)
        memories = [EngineMemory(strategy=strategy) for strategy in ways.values()]
        calls = [partial(call, model, x, memory) for memory in memories]
        for run in calls:
            run()
        times = in_turns(calls, SECONDS)
        comparisons.append(compare(f"{num_bytes:,} bytes", list(ways), [len(x)] * len(ways), times))
    return tuple(comparisons)
