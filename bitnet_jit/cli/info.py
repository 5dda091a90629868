"""`bitnet-jit info`: show what there is on this machine, what is used of it, and why the rest is not."""

import importlib.metadata
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from bitnet_jit.kernels.backend import Backend

PACKAGES = ("torch", "numpy", "numba", "llvmlite", "triton", "mlx", "safetensors", "tokenizers", "transformers")


def info() -> None:
    """Show versions, the CPU, threads, backends and the layouts of packed weights."""
    for section, lines in sections():
        typer.echo(section)
        for name, value in lines:
            typer.echo(f"  {name:<24} {value}")


def sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield headings, each with names and values."""
    import bitnet_jit
    from bitnet_jit.devices.kinds import available_types
    from bitnet_jit.kernels import registry

    yield (
        "versions",
        [
            ("bitnet-jit", bitnet_jit.__version__),
            ("python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, version(name)) for name in PACKAGES),
        ],
    )
    yield from device_sections()
    devices = available_types()
    for backend in registry.in_order():
        yield f"backend {backend.name}", backend_lines(backend, devices)
    yield "layouts of packed weights", layout_lines(devices)
    yield "tuning", tuning_lines()


def device_sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield what there is to say of each device that torch can use."""
    import torch

    from bitnet_jit.devices.kinds import KINDS
    from bitnet_jit.devices.threads import get_num_threads

    for kind in reversed(KINDS.values()):
        threads = {"threads": str(get_num_threads())} if kind.times_alone else {}
        for index in range(kind.count()):
            if lines := kind.describe(torch.device(kind.type, index)):
                title = kind.title(index) if kind.title else f"{kind.type}:{index}"
                yield title, [*lines.items(), *threads.items()]


def version(package: str) -> str:
    """Return the installed version of a package, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def backend_lines(backend: "Backend", devices: list[str]) -> list[tuple[str, str]]:
    """Return whether a backend is usable on each type of device, and what it says of itself."""
    from bitnet_jit.devices.kinds import kind_named
    from bitnet_jit.kernels import registry

    beside_torch = [type for type in backend.device_types if kind_named(type).tensors]
    devices = beside_torch or devices
    reasons = {device: registry.unsupported_reason(backend.name, device) for device in devices}
    lines = [(f"on {device}", f"not usable: {reason}" if reason else "usable") for device, reason in reasons.items()]
    return lines if None not in reasons.values() else [*lines, *backend.describe().items()]


def layout_lines(devices: list[str]) -> list[tuple[str, str]]:
    """Return the layout in which each packing is resident on each type of device."""
    from bitnet_jit.kernels import registry
    from bitnet_jit.packing import FORMATS

    return [
        (f"{format} on {device}", registry.preferred_layout(format, device).name)
        for device in devices
        for format in FORMATS
    ]


def tuning_lines() -> list[tuple[str, str]]:
    """Return where choices are kept, and how many there are, by their origin."""
    from collections import Counter

    from bitnet_jit.runtime.cache import TuningCache

    cache = TuningCache()
    try:
        origins = Counter(tuned.origin for _, tuned in cache.entries())
    except OSError as error:
        return [("folder", f"not usable: {error}")]
    return [("folder", str(cache.folder)), *((f"choices {origin}", str(count)) for origin, count in origins.items())]
