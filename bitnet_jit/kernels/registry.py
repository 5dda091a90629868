"""The register of backends and kernels: the one place that knows which there are.

A backend is a folder here that holds BACKEND, and a word in BACKENDS. Its package (Numba, Triton, ...) is imported when
a problem first needs it; a package that is absent is a refusal in words, a broken module of ours raises.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.kernel import Backend, Kernel
from bitnet_jit.packing import CANONICAL, Layout, get_format
from bitnet_jit.problem import Problem

BACKENDS = {"numba": ("numba",), "torch": ("torch",)}  # in order of preference; the packages that each one needs


@cache
def why_absent(name: str) -> str | None:
    """Why a backend cannot be imported at all, or None."""
    for package in BACKENDS[name]:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed (pip install {package})"
    return None


@cache
def backend(name: str) -> Backend:
    """The backend of that name, imported."""
    found: Backend = importlib.import_module(f"bitnet_jit.kernels.{name}").BACKEND
    return found


def why_not_backend(name: str, device_type: str) -> str | None:
    """Why a backend cannot serve a type of device, or None."""
    return why_absent(name) or backend(name).why_not(device_type)


def kernels(op: str | None = None) -> Iterator[Kernel]:
    """Every kernel of the installed backends, or those of one op."""
    for name in BACKENDS:
        if why_absent(name) is None:
            yield from (kernel for kernel in backend(name).kernels if op in (None, kernel.op))


def candidates(problem: Problem) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels that can run a problem, in order of preference, and every other one's refusal."""
    fitting: list[Kernel] = []
    refusals: dict[str, str] = {}
    for name in BACKENDS:
        if reason := why_not_backend(name, problem.device_type):
            refusals[name] = reason
            continue
        for kernel in backend(name).kernels:
            if kernel.op != problem.op:
                continue
            if reason := kernel.why_not(problem):
                refusals[kernel.name] = reason
            else:
                fitting.append(kernel)
    return fitting, refusals


@cache
def preferred_layout(format_name: str, device_type: str) -> Layout:
    """The layout in which weights of a format are resident on a type of device: that of its first backend."""
    get_format(format_name)
    for name in BACKENDS:
        if why_not_backend(name, device_type) is None:
            for layout in backend(name).layouts:
                if layout.format.name == format_name:
                    return layout
    return CANONICAL[format_name]


@cache
def get_layout(name: str) -> Layout:
    """The layout of that name, of any installed backend."""
    known = dict(CANONICAL)
    for backend_name in BACKENDS:
        if why_absent(backend_name) is None:
            known |= {layout.name: layout for layout in backend(backend_name).layouts}
    if name not in known:
        raise InvalidInput(f"layout: expected one of {', '.join(known)}, got {name!r}")
    return known[name]
