"""What kernels are compiled for: NVIDIA's assembly or the plain path, a GPU or the interpreter."""

from functools import cache

import triton
from triton.runtime.jit import JITFunction

from bitnet_jit.kernels.triton.device.unpack import unpack
from bitnet_jit.problem import Gpu

MIN_TRITON = (3, 4)  # compiled kernels take their constants as arguments from here on
MIN_CAPABILITY = 8.0
DEPENDENT_CAPABILITY = 9.0  # programmatic dependent launch
EIGHT_ROWS_TRITON = (3, 6)  # tl.dot takes operands of 8 rows, as NVIDIA's matrix units do


def triton_version() -> tuple[int, ...]:
    """Major and minor number of Triton's version, whatever package it came in."""
    return tuple(map(int, triton.__version__.split(".")[:2]))


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1 before the first import)."""
    return not isinstance(unpack, JITFunction)


def is_nvidia(gpu: Gpu | None) -> bool:
    """Whether kernels may hold NVIDIA's instructions."""
    return gpu is not None and not gpu.arch.startswith("gfx") and not interpreted()


def is_dependent(gpu: Gpu | None) -> bool:
    """Whether a kernel may begin before the one ahead of it in the stream has ended, and waits for it by itself."""
    return gpu is not None and is_nvidia(gpu) and float(gpu.arch) >= DEPENDENT_CAPABILITY


def multiplies_eight_rows(gpu: Gpu | None) -> bool:
    """Whether a product of tiles may have 8 rows: AMD's matrix units and older versions of Triton take 16 at least."""
    return is_nvidia(gpu) and triton_version() >= EIGHT_ROWS_TRITON


@cache
def unsupported_reason(gpu: Gpu | None) -> str | None:
    """Why no kernel of this backend can run on a GPU, or None."""
    if triton_version() < MIN_TRITON:
        wanted, found = (".".join(map(str, version)) for version in (MIN_TRITON, triton_version()))
        return f"needs Triton {wanted} or newer, found {found}"
    if gpu is not None and not gpu.arch.startswith("gfx") and float(gpu.arch) < MIN_CAPABILITY:
        return f"needs compute capability {MIN_CAPABILITY}, {gpu.name} has {gpu.arch}"
    return None
