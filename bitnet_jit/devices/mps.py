"""Apple's GPUs as torch has them: what they are, and how calls are timed there. Their memory is the CPU's."""

import platform
from functools import cache
from typing import Any

from bitnet_jit.devices.apple import chip_name, describe_chip
from bitnet_jit.devices.clock import measure_by_clock
from bitnet_jit.devices.kind import DeviceKind
from bitnet_jit.problem import Gpu

THREADGROUP_MEMORY = 2**15  # bytes, of every Apple GPU with simdgroup matrices (Metal Feature Set Tables, 2024)


def count() -> int:
    """Return 1 where torch can use the GPU, else 0."""
    import torch

    return int(torch.backends.mps.is_available())


def synchronize() -> None:
    """Wait until the GPU has done all that it was told."""
    import torch

    torch.mps.synchronize()


@cache
def core_count() -> int:
    """Return the cores of the GPU; 0 where torch does not tell."""
    import torch

    ask = getattr(torch.backends.mps, "get_core_count", None)
    return int(ask()) if ask is not None else 0


def find_gpu(device: Any) -> Gpu:
    """Return what kernels may know of the GPU."""
    return Gpu(chip_name() or "Apple GPU", "metal", core_count(), THREADGROUP_MEMORY)


def gpu_fingerprint(device: Any) -> str:
    """Return the chip's name, its GPU cores, and the version of macOS, with which Metal's compiler comes."""
    gpu = find_gpu(device)
    return f"{gpu.name}/{gpu.multiprocessors}/{platform.mac_ver()[0] or platform.platform()}"


def total_memory(device: Any) -> int:
    """Return the bytes that the GPU should use at most, of the memory that it shares with the CPU."""
    import torch

    return int(torch.mps.recommended_max_memory())


def memory_in_use(device: Any) -> int:
    """Return the bytes that torch has taken for the GPU."""
    import torch

    return int(torch.mps.driver_allocated_memory())


def measure(calls: Any, sets: Any) -> Any:
    """Return what times calls by the clock, each waited for."""

    def waited_for(call: Any) -> Any:
        def run(*arguments: Any) -> None:
            call(*arguments)
            synchronize()

        return run

    return measure_by_clock([waited_for(call) for call in calls], sets)


def describe(device: Any) -> dict[str, str]:
    """Return what people want to know of the GPU."""
    gpu = find_gpu(device)
    cores = {"cores": str(gpu.multiprocessors)} if gpu.multiprocessors else {}
    return {"name": gpu.name} | cores | describe_chip(gpu.name, gpu.multiprocessors)


MPS = DeviceKind(
    "mps",
    count=count,
    fingerprint=gpu_fingerprint,
    gpu=find_gpu,
    synchronize=synchronize,
    total_memory=total_memory,
    memory_in_use=memory_in_use,
    unified=True,
    measure=measure,
    table=lambda gpu: gpu.name.lower().replace(" ", "-") if gpu else "mps",
    failure_words=("kIOGPUCommandBufferCallbackError", "command buffer exited with error"),
    title=lambda index: "gpu",
    describe=describe,
)
