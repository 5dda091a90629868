"""What device this is: a fingerprint that two unlike devices never share."""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_jit.problem import Gpu
from bitnet_jit.system.cores import available_cores as available_cores

if TYPE_CHECKING:
    import torch

FEATURES = ("avx2", "avx_vnni", "avx512bw", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")  # in Linux's words


@cache
def fingerprint(device: "torch.device") -> str:
    """A name for a device that tells it from every other kind.

    A CPU's model, the features that kernels choose by, and its cores; a GPU's name, architecture, multiprocessors and
    the version of its driver.
    """
    if device.type == "cpu":
        return cpu_fingerprint()
    if found := find_gpu(device):
        return f"{found.name}/{found.arch}/{found.multiprocessors}/{driver_version()}"
    return f"{device.type}/{platform.platform()}"


@cache
def find_gpu(device: "torch.device") -> Gpu | None:
    """What kernels may know of a CUDA or ROCm device; None for every other device."""
    if device.type != "cuda":
        return None
    import torch

    found = torch.cuda.get_device_properties(device)
    arch = found.gcnArchName.partition(":")[0] if torch.version.hip else f"{found.major}.{found.minor}"
    # what NVIDIA's GPUs give to those who ask for it; torch has it neither for AMD nor in its older versions
    shared_memory = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
    return Gpu(found.name, arch, found.multi_processor_count, shared_memory)


@cache
def driver_version() -> str:
    """Of CUDA as NVIDIA's driver has it, such as "12080", or of HIP; "unknown" where the driver does not say."""
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


@cache
def cpu_fingerprint() -> str:
    """The CPU's model name, its features, and the number of cores that this process may use."""
    return f"{cpu_name()}/{'+'.join(cpu_features())}/{available_cores()}"


def cpu_features() -> tuple[str, ...]:
    """Which of FEATURES the operating system tells of; none where it has no /proc/cpuinfo."""
    told = from_cpuinfo("flags", "Features").split()
    return tuple(feature for feature in FEATURES if feature in told)


def cpu_name() -> str:
    """The CPU's model name as the operating system tells it."""
    return from_cpuinfo("model name") or platform.processor() or platform.machine()


def from_cpuinfo(*names: str) -> str:
    """What Linux says of the first CPU under one of these names; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a sandbox without /proc
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")
