"""The share of a step that is spent outside of kernels that read weights or the cache.

By torch's profiler on a GPU kernels are timed by the device, whether a host or a CUDA graph launches them; on the CPU
ops are timed, each without the ops that it calls, and an op that the profiler does not see counts as outside. It does
not see those of a step that was recorded: these are run again one by one, and timed by the clock.
"""

import re
import time
from collections.abc import Callable, Sequence

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

MEMORY_BOUND = re.compile(
    "linear|matmul|gemv|gemm|planes_kernel|small_kernel|fused_kernel|::mm|addmm|bmm|head|attention|attn|flash|fmha|"
    "cutlass|splitk|decode|qkv|gate_up|down",
    re.IGNORECASE,
)


def outside_share(write: Callable[[int], float], steps: int, device: str, step_seconds: float) -> float | None:
    """Return 1 - (time in memory-bound kernels) / (time of a step); None where no such kernel was seen.

    Args:
        write: writes so many tokens and returns the seconds of each.
        steps: that are profiled.
        device: in torch's words.
        step_seconds: of a step that is not profiled; a CPU's kernels are compared with the profiled ones instead.
    """
    on_gpu = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        seconds = write(steps)
    if on_gpu:
        events = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
        times = [(event.name, event.device_time) for event in events]
    else:
        seconds_each = [(event.key, event.self_cpu_time_total) for event in profiled.key_averages()]
        times, step_seconds = seconds_each, seconds
    microseconds = sum(time for name, time in times if MEMORY_BOUND.search(name))
    return max(0.0, 1 - microseconds / 1e6 / (steps * step_seconds)) if microseconds else None


def outside_of_recorded(
    steps: Sequence[tuple[str, Callable[[], object]]], repeats: int, step_seconds: float
) -> float | None:
    """Return 1 - (time in memory-bound kernels) / (time of a step); None where no such kernel was recorded.

    Args:
        steps: the names of a step's ops, and what runs them, in order.
        repeats: of the whole step; the one with the least time in such kernels counts.
        step_seconds: of a step that runs as a whole.
    """
    seconds = min(memory_bound_seconds(steps) for _ in range(repeats))
    return max(0.0, 1 - seconds / step_seconds) if seconds else None


def memory_bound_seconds(steps: Sequence[tuple[str, Callable[[], object]]]) -> float:
    """Run a step's ops, and return the time of those that read weights, head or cache."""
    seconds = 0.0
    for name, step in steps:
        start = time.perf_counter()
        step()
        seconds += time.perf_counter() - start if MEMORY_BOUND.search(name) else 0.0
    return seconds
