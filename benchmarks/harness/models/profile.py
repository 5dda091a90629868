"""The share of a step that is spent outside of kernels that read weights or the cache, by torch's profiler.

On a GPU kernels are timed by the device, whether a host or a CUDA graph launches them. On the CPU ops are timed, each
without the ops that it calls; an op that the profiler does not see counts as outside.
"""

import re
from collections.abc import Callable

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
