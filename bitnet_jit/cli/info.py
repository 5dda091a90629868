"""`bitnet-jit info`: what there is on this machine, what is used of it, and why the rest is not."""

import importlib.metadata
import platform
from collections.abc import Iterator

import typer

PACKAGES = ("torch", "numpy", "numba", "llvmlite", "triton", "mlx", "safetensors", "tokenizers", "transformers")


def info() -> None:
    """Show versions, the CPU, threads, backends and the layouts of packed weights."""
    for section, lines in sections():
        typer.echo(section)
        for name, value in lines:
            typer.echo(f"  {name:<24} {value}")


def sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Headings, each with names and values."""
    import bitnet_jit
    from bitnet_jit.devices.fingerprint import available_cores, cpu_name
    from bitnet_jit.kernels import registry
    from bitnet_jit.runtime.threads import get_num_threads

    yield (
        "versions",
        [
            ("bitnet-jit", bitnet_jit.__version__),
            ("python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, version(name)) for name in PACKAGES),
        ],
    )
    yield (
        "cpu",
        [("name", cpu_name()), ("cores", str(available_cores())), ("threads", str(get_num_threads()))],
    )
    yield from gpu_sections()
    devices = device_types()
    for name in registry.BACKENDS:
        yield f"backend {name}", backend_lines(name, devices)
    yield "layouts of packed weights", layout_lines(devices)
    yield "tuning", tuning_lines()


def gpu_sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What kernels know of each GPU that torch can use."""
    import torch

    from bitnet_jit.devices.fingerprint import find_gpu

    for index in range(torch.cuda.device_count()):
        gpu = find_gpu(torch.device("cuda", index))
        assert gpu is not None
        yield (
            f"gpu {index}",
            [
                ("name", gpu.name),
                ("architecture", gpu.arch),
                ("multiprocessors", str(gpu.multiprocessors)),
                ("shared memory", f"{gpu.shared_memory / 1024:.0f} KiB a program"),
            ],
        )


def version(package: str) -> str:
    """The installed version of a package, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_types() -> list[str]:
    """Types of devices that torch can use here."""
    import torch

    found = ["cpu"]
    found += ["cuda"] if torch.cuda.is_available() else []
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def backend_lines(name: str, devices: list[str]) -> list[tuple[str, str]]:
    """Whether a backend is usable on each type of device, and what it says of itself."""
    from bitnet_jit.kernels import registry

    lines = []
    for device in devices:
        reason = registry.backend_unsupported_reason(name, device)
        lines.append((f"on {device}", f"not usable: {reason}" if reason else "usable"))
    if name == "numba" and registry.absent_reason(name) is None:
        from bitnet_jit.kernels.numba import describe
        from bitnet_jit.ops.numba_tensors import FORK

        lines += [*describe().items(), ("thread layer", FORK.name)]
    return lines


def layout_lines(devices: list[str]) -> list[tuple[str, str]]:
    """The layout in which each packing is resident on each type of device."""
    from bitnet_jit.kernels import registry
    from bitnet_jit.packing import FORMATS

    return [
        (f"{format} on {device}", registry.preferred_layout(format, device).name)
        for device in devices
        for format in FORMATS
    ]


def tuning_lines() -> list[tuple[str, str]]:
    """Where choices are kept, and how many there are, by where they come from."""
    from collections import Counter

    from bitnet_jit.runtime.cache import TuningCache

    cache = TuningCache()
    try:
        origins = Counter(tuned.origin for _, tuned in cache.entries())
    except OSError as error:
        return [("folder", f"not usable: {error}")]
    return [("folder", str(cache.folder)), *((f"choices {origin}", str(count)) for origin, count in origins.items())]
