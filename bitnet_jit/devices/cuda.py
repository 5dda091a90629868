"""NVIDIA's GPUs, and AMD's under the same name: what they are, and how calls are timed there."""

import ctypes
import os
import re
from functools import cache
from typing import Any

from bitnet_jit.devices.kind import DeviceKind, Fill
from bitnet_jit.problem import Gpu

UPLOAD_BYTES = 2**23  # copied at a time


@cache
def find_gpu(device: Any) -> Gpu:
    """Return what kernels may know of a CUDA or ROCm device."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    arch = properties.gcnArchName.partition(":")[0] if torch.version.hip else f"{properties.major}.{properties.minor}"
    # what NVIDIA's GPUs give to those who ask for it; torch has it neither for AMD nor in its older versions
    shared_memory = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return Gpu(properties.name, arch, properties.multi_processor_count, shared_memory)


@cache
def driver_version() -> str:
    """Return the version of CUDA in NVIDIA's driver, such as "12080", or of HIP; "unknown" if the driver says none."""
    import torch

    if torch.version.hip:
        return str(torch.version.hip)
    number = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        failed = driver.cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return "unknown"
    return "unknown" if failed else str(number.value)


def gpu_fingerprint(device: Any) -> str:
    """Return a GPU's name, architecture, number of multiprocessors, and the version of its driver."""
    gpu = find_gpu(device)
    return f"{gpu.name}/{gpu.arch}/{gpu.multiprocessors}/{driver_version()}"


def count() -> int:
    """Return the number of GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def current(device: Any) -> Any:
    """Return a context in which a GPU is the current one."""
    import torch

    return torch.cuda.device(device)


def is_capturing() -> bool:
    """Return whether a CUDA graph is being captured."""
    import torch

    return torch.cuda.is_current_stream_capturing()


def synchronize() -> None:
    """Wait until the current GPU has done all that it was told."""
    import torch

    torch.cuda.synchronize()


def total_memory(device: Any) -> int:
    """Return the bytes of a GPU's memory."""
    import torch

    num_bytes: int = torch.cuda.get_device_properties(device).total_memory
    return num_bytes


def measure(calls: Any, sets: Any) -> Any:
    """Return what times calls in CUDA graphs."""
    from bitnet_jit.devices.graphs import measure_by_graphs

    return measure_by_graphs(calls, sets)


def capture(forward: Any, device: Any) -> Any:
    """Capture what a function launches, after two calls that compile, choose and allocate what it needs."""
    import torch

    with torch.cuda.device(device):
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                forward()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = forward()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay, result


def upload(tensor: Any, fill: Fill) -> None:
    """Fill a contiguous tensor by page-locked memory, one piece read while the one before is copied."""
    import torch

    target = tensor.view(-1).view(torch.uint8)
    for start in range(0, target.numel(), UPLOAD_BYTES):
        part = target[start : start + UPLOAD_BYTES]
        # torch gives page-locked memory out again when the copies from it have ended
        piece = torch.empty(part.shape, dtype=torch.uint8, device="cpu", pin_memory=True)
        fill(piece.numpy().data, start)
        part.copy_(piece, non_blocking=True)


def to_fill(tensor: Any) -> Any:
    """Return a tensor in page-locked memory."""
    return tensor.pin_memory()


def begin_fetch(tensor: Any) -> Any:
    """Begin to copy a tensor to the host; return what waits for it."""
    import torch

    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    host.copy_(tensor, non_blocking=True)
    event.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Any:
        event.synchronize()
        return host

    return wait


@cache
def copies(device: Any) -> Any:
    """Return what moves tensors to a GPU and back beside its work."""
    from bitnet_jit.devices.copies import CudaCopies

    return CudaCopies(device)


def describe(device: Any) -> dict[str, str]:
    """Return what people want to know of a GPU."""
    gpu = find_gpu(device)
    return {
        "name": gpu.name,
        "architecture": gpu.arch,
        "multiprocessors": str(gpu.multiprocessors),
        "shared memory": f"{gpu.shared_memory / 1024:.0f} KiB per program",
    }


CUDA = DeviceKind(
    "cuda",
    count=count,
    fingerprint=gpu_fingerprint,
    gpu=find_gpu,
    current=current,
    is_capturing=is_capturing,
    synchronize=synchronize,
    total_memory=total_memory,
    measure=measure,
    table=lambda gpu: re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()) if gpu else "cuda",
    capture=capture,
    upload=upload,
    to_fill=to_fill,
    prompt_tokens=4096,
    begin_fetch=begin_fetch,
    copies=copies,
    own_random_state=True,
    compiled_training=True,
    mixed_sums=True,
    failure_words=("CUDA error", "CUDA driver error", "HIP error", "Triton Error [", "CUBLAS_STATUS", "CUDNN_STATUS"),
    title=lambda index: f"gpu {index}",
    describe=describe,
)
