"""The CPU as a device: what it is, by its model, its features and its cores."""

import platform
from functools import cache
from pathlib import Path
from typing import Any

from bitnet_jit.devices.clock import measure_by_clock
from bitnet_jit.devices.kind import DeviceKind
from bitnet_jit.system.cores import available_cores as available_cores
from bitnet_jit.system.memory import total_memory

FEATURES = ("avx2", "avx_vnni", "avx512bw", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")  # in Linux's words
CLASSES = ("amx_int8", "avx512_vnni", "avx2")  # the fastest first


@cache
def cpu_fingerprint() -> str:
    """Return the CPU's model name, its features, and the number of cores that this process may use."""
    return f"{cpu_name()}/{'+'.join(cpu_features())}/{available_cores()}"


def cpu_features() -> tuple[str, ...]:
    """Return the FEATURES that the operating system reports; none where it has no /proc/cpuinfo."""
    reported = read_cpuinfo("flags", "Features").split()
    return tuple(feature for feature in FEATURES if feature in reported)


def cpu_name() -> str:
    """Return the CPU's model name as the operating system reports it."""
    return read_cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_class() -> str:
    """Return the first of CLASSES that this CPU has as a feature, else "generic"."""
    return next((feature for feature in CLASSES if feature in cpu_features()), "generic")


def read_cpuinfo(*names: str) -> str:
    """Return what Linux says of the first CPU under one of these names; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a sandbox without /proc
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def describe(device: Any) -> dict[str, str]:
    """Return what people want to know of the CPU."""
    return {"name": cpu_name(), "cores": str(available_cores())}


CPU = DeviceKind(
    "cpu",
    count=lambda: 1,
    fingerprint=lambda device: cpu_fingerprint(),
    total_memory=lambda device: total_memory(),
    measure=measure_by_clock,
    table=lambda gpu: f"cpu-{cpu_class()}",
    default_dtype="float32",
    times_alone=True,
    records=True,
    prompt_tokens=256,
    title=lambda index: "cpu",
    describe=describe,
)
