"""The registry of backends and kernels: the one place that is asked which there are.

A record imports no package: Numba, Triton and the like are loaded when a problem first needs them. A package that is
absent is a refusal in words, a broken module of ours raises.
"""

import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Backend
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.system.shielded import shielded

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bitnet_jit.packing.layout import Layout
    from bitnet_jit.packing.stored import Stored

BACKENDS: dict[str, Backend] = {}  # by name


def register(backend: Backend) -> None:
    """Add a backend, of this package or from outside it.

    Raises:
        InvalidInput: there is one of that name.
    """
    if backend.name in BACKENDS:
        raise InvalidInput(f"backend: there is one named {backend.name!r} already; unregister it first")
    BACKENDS[backend.name] = backend
    forget()


def unregister(name: str) -> None:
    """Remove a backend; kernels that were bound already stay usable."""
    del BACKENDS[name]
    forget()


def forget() -> None:
    """Forget what was derived from the backends that were there."""
    for derived in (absent_reason, get_ready, kernels_of, layouts_of, preferred_layout, training_layout, get_layout):
        derived.cache_clear()


def in_order() -> list[Backend]:
    """Return all backends, those of the highest priority first."""
    return sorted(BACKENDS.values(), key=lambda backend: -backend.priority)


@cache
def absent_reason(name: str) -> str | None:
    """Return why a backend cannot be used on any device, or None. Imports nothing."""
    for package in BACKENDS[name].packages:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed (pip install {package})"
    return BACKENDS[name].disabled_reason()


def unsupported_reason(name: str, device_type: str) -> str | None:
    """Return why a backend cannot serve a type of device, or None. Imports nothing."""
    served = BACKENDS[name].device_types
    if served and device_type not in served:
        return f"serves {' and '.join(served)}, not {device_type}"
    return absent_reason(name)


def serving(device_type: str) -> Iterator[Backend]:
    """Yield the backends that can serve a type of device, in order."""
    return (backend for backend in in_order() if unsupported_reason(backend.name, device_type) is None)


@cache
def kernels_of(name: str) -> tuple[Kernel, ...]:
    """Return the kernels of a backend; a Ctrl-C waits until they are imported, as half an import cannot be repeated."""
    kernels: tuple[Kernel, ...] = shielded(BACKENDS[name].kernels)
    return kernels


@cache
def layouts_of(name: str) -> "tuple[Layout, ...]":
    """Return the layouts of a backend, which may import its package, as `kernels_of` does."""
    layouts: tuple[Layout, ...] = shielded(BACKENDS[name].layouts)
    return layouts


@cache
def get_ready(device_type: str) -> None:
    """Begin, in threads and once, what the first calls on a type of device would wait for."""
    for backend in serving(device_type):
        if backend.get_ready is not None:
            Thread(target=backend.get_ready, name=f"bitnet_jit-{backend.name}").start()


def kernels(op: str | None = None) -> Iterator[Kernel]:
    """Yield every kernel of the installed backends, or those of one op."""
    for backend in in_order():
        if absent_reason(backend.name) is None:
            yield from (kernel for kernel in kernels_of(backend.name) if op in (None, kernel.op))


def candidates(problem: Problem) -> tuple[list[Kernel], dict[str, str]]:
    """Return the kernels that can run a problem, in order of preference, and every other one's refusal."""
    fitting: list[Kernel] = []
    refusals: dict[str, str] = {}
    for backend in in_order():
        if reason := unsupported_reason(backend.name, problem.device_type):
            refusals[backend.name] = reason
            continue
        of_op = [kernel for kernel in kernels_of(backend.name) if kernel.op == problem.op]
        reasons = {kernel.name: kernel.unsupported_reason(problem) for kernel in of_op}
        refusals |= {name: reason for name, reason in reasons.items() if reason}
        fitting += sorted(
            (kernel for kernel in of_op if not reasons[kernel.name]), key=lambda kernel: -kernel.priority(problem)
        )
    return fitting, refusals


def is_fallback(kernel: Kernel) -> bool:
    """Return whether a kernel is of a plain implementation, which unpacks the weight in each call."""
    return BACKENDS[kernel.backend].fallback


@cache
def preferred_layout(format_name: str, device_type: str) -> "Layout":
    """Return the layout in which weights of a format are resident on a type of device: that of its first backend."""
    layouts = [layout for backend in serving(device_type) for layout in layouts_of(backend.name)]
    for layout in layouts:
        if layout.format.name == format_name:
            return layout
    formats = dict.fromkeys(layout.format.name for layout in layouts)
    raise InvalidInput(f"packing: expected one of {', '.join(formats)}, got {format_name!r}")


def decoder(device_type: str) -> "Callable[[Stored, Any, Any, int], tuple[int, int]] | None":
    """Return how the first backend of a type of device that has a pass for it decodes stored codes; None: none has."""
    return next((backend.decode for backend in serving(device_type) if backend.decode is not None), None)


@cache
def training_layout(device_type: str) -> "Layout":
    """Return the layout of i2 into which a training step quantizes weights, on a type of device."""
    layouts = (backend.training_layout() for backend in serving(device_type))
    return next((layout for layout in layouts if layout is not None), preferred_layout("i2", device_type))


def readable_layouts(backend: Backend) -> "tuple[Layout, ...]":
    """Return the layouts of a backend, and none where it is absent and they need what is absent with it."""
    if backend.layouts_need_package and absent_reason(backend.name) is not None:
        return ()
    return layouts_of(backend.name)


@cache
def get_layout(name: str) -> "Layout":
    """Return the layout of that name, of any backend; a backend whose package is imported already is asked first."""
    known: dict[str, Layout] = {}
    for backend in sorted(BACKENDS.values(), key=lambda backend: not sys.modules.keys() >= set(backend.packages)):
        if name in known:
            break
        known |= {layout.name: layout for layout in readable_layouts(backend)}
    if name not in known:
        names = sorted(known, key=lambda known_name: "/" in known_name)  # the canonical ones first
        raise InvalidInput(f"layout: expected one of {', '.join(names)}, got {name!r}")
    return known[name]
