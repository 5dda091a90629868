"""The register of backends and kernels: the one place that knows which there are.

A backend is a folder here that holds BACKEND, and an entry in BACKENDS. The entry tells what must be known before the
backend is imported, because its package (Numba, Triton, ...) is imported when a problem first needs it. A package that
is absent is a refusal in words, a broken module of ours raises.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.kernel import Backend, Kernel
from bitnet_jit.packing import CANONICAL, Layout, get_format
from bitnet_jit.problem import Problem
from bitnet_jit.system.shielded import shielded


@dataclass(frozen=True)
class Entry:
    """What is known of a backend before it is imported.

    Attributes:
        packages: what must be installed.
        device_types: torch's words for the devices that it serves; empty means every device.
        layouts: the module of its LAYOUTS where that needs no package, so that a weight that was laid on another
            machine can be read here.
        disabled_reason: whether the user has switched its compiler off: None, or what to do about it in words.
    """

    packages: tuple[str, ...] = ()
    device_types: tuple[str, ...] = ()
    layouts: str = ""
    disabled_reason: Callable[[], str | None] = lambda: None


def numba_disabled_reason() -> str | None:
    """Numba compiles nothing where NUMBA_DISABLE_JIT is set: it hands back plain Python functions."""
    config = getattr(sys.modules.get("numba"), "config", None)  # it may have been set by hand, too
    said = os.environ.get("NUMBA_DISABLE_JIT", "0") if config is None else config.DISABLE_JIT
    if said in ("", "0", 0):
        return None
    return "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing; unset it before bitnet_jit is used"


BACKENDS = {  # in order of preference
    "numba": Entry(("numba",), ("cpu",), disabled_reason=numba_disabled_reason),
    "triton": Entry(("triton",), ("cuda",), "bitnet_jit.kernels.triton.layout"),
    "torch": Entry(("torch",)),
}


@cache
def absent_reason(name: str) -> str | None:
    """Why a backend cannot be imported at all, or None."""
    for package in BACKENDS[name].packages:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed (pip install {package})"
    return BACKENDS[name].disabled_reason()


@cache
def backend(name: str) -> Backend:
    """The backend of that name, imported; a Ctrl-C waits until it is, as half an import cannot be repeated."""
    found: Backend = shielded(importlib.import_module, f"bitnet_jit.kernels.{name}").BACKEND
    return found


def backend_unsupported_reason(name: str, device_type: str) -> str | None:
    """Why a backend cannot serve a type of device, or None. Imports nothing."""
    served = BACKENDS[name].device_types
    if served and device_type not in served:
        return f"serves {' and '.join(served)}, not {device_type}"
    return absent_reason(name)


def kernels(op: str | None = None) -> Iterator[Kernel]:
    """Every kernel of the installed backends, or those of one op."""
    for name in BACKENDS:
        if absent_reason(name) is None:
            yield from (kernel for kernel in backend(name).kernels if op in (None, kernel.op))


def candidates(problem: Problem) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels that can run a problem, in order of preference, and every other one's refusal."""
    fitting: list[Kernel] = []
    refusals: dict[str, str] = {}
    for name in BACKENDS:
        if reason := backend_unsupported_reason(name, problem.device_type):
            refusals[name] = reason
            continue
        own = [kernel for kernel in backend(name).kernels if kernel.op == problem.op]
        reasons = {kernel.name: kernel.unsupported_reason(problem) for kernel in own}
        refusals |= {kernel_name: reason for kernel_name, reason in reasons.items() if reason}
        fitting += sorted((kernel for kernel in own if not reasons[kernel.name]), key=lambda found: -found.priority(problem))
    return fitting, refusals


@cache
def preferred_layout(format_name: str, device_type: str) -> Layout:
    """The layout in which weights of a format are resident on a type of device: that of its first backend."""
    get_format(format_name)
    for name in BACKENDS:
        if backend_unsupported_reason(name, device_type) is None:
            for layout in backend(name).layouts:
                if layout.format.name == format_name:
                    return layout
    return CANONICAL[format_name]


@cache
def training_layout(device_type: str) -> Layout:
    """The layout of i2 into which a training step quantizes weights, on a type of device."""
    for name in BACKENDS:
        if (
            backend_unsupported_reason(name, device_type) is None
            and (layout := backend(name).training_layout) is not None
        ):
            return layout
    return preferred_layout("i2", device_type)


def layouts_of(name: str) -> tuple[Layout, ...]:
    """The layouts of a backend, and none where it is absent and they need what is absent with it."""
    if module := BACKENDS[name].layouts:
        found: tuple[Layout, ...] = importlib.import_module(module).LAYOUTS
        return found
    return backend(name).layouts if absent_reason(name) is None else ()


@cache
def get_layout(name: str) -> Layout:
    """The layout of that name, of any backend; one that is imported already is asked first."""
    known = dict(CANONICAL)
    for backend_name in sorted(BACKENDS, key=lambda found: f"bitnet_jit.kernels.{found}" not in sys.modules):
        if name in known:
            break
        known |= {layout.name: layout for layout in layouts_of(backend_name)}
    if name not in known:
        raise InvalidInput(f"layout: expected one of {', '.join(known)}, got {name!r}")
    return known[name]
