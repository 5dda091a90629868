"""The target of compilation: a GPU, with NVIDIA's assembly or the plain path, or the interpreter."""

from functools import cache

import triton
from triton.runtime.jit import JITFunction

from bitnet_jit.kernels.triton.device.pdl import gdc_wait
from bitnet_jit.problem import Gpu

MIN_TRITON = (3, 4)  # compiled kernels take their constants as arguments from here on
MIN_CAPABILITY = 8.0
PDL_CAPABILITY = 9.0  # programmatic dependent launch
EIGHT_ROWS_TRITON = (3, 6)  # tl.dot takes operands of 8 rows, as NVIDIA's matrix units do


def triton_version() -> tuple[int, ...]:
    """Return the major and minor number of Triton's version, of any package that brings it."""
    return tuple(map(int, triton.__version__.split(".")[:2]))


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1 before the first import)."""
    return not isinstance(gdc_wait, JITFunction)


def is_nvidia(gpu: Gpu | None) -> bool:
    """Return whether kernels may hold NVIDIA's instructions."""
    return gpu is not None and not gpu.arch.startswith("gfx") and not interpreted()


def supports_pdl(gpu: Gpu | None) -> bool:
    """Return whether a kernel may begin before the one ahead of it has ended, and waits for it by itself (pdl.py)."""
    return gpu is not None and is_nvidia(gpu) and float(gpu.arch) >= PDL_CAPABILITY


def multiplies_eight_rows(gpu: Gpu | None) -> bool:
    """Return whether a product of tiles may have 8 rows: AMD's matrix units and older Triton take 16 at least."""
    return is_nvidia(gpu) and triton_version() >= EIGHT_ROWS_TRITON


def multiprocessors(gpu: Gpu | None) -> int:
    """Return the number of multiprocessors of a GPU; without one, of an H200."""
    return 132 if gpu is None else gpu.multiprocessors


@cache
def unsupported_reason(gpu: Gpu | None) -> str | None:
    """Return why no kernel of this backend can run on a GPU, or None."""
    if triton_version() < MIN_TRITON:
        needed, installed = (".".join(map(str, version)) for version in (MIN_TRITON, triton_version()))
        return f"needs Triton {needed} or newer, found {installed}"
    if gpu is not None and not gpu.arch.startswith("gfx") and float(gpu.arch) < MIN_CAPABILITY:
        return f"needs compute capability {MIN_CAPABILITY}, {gpu.name} has {gpu.arch}"
    return None
