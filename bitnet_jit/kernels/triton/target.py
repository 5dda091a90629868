"""What kernels are compiled for: NVIDIA's assembly or the plain path, a GPU or the interpreter."""

import torch
from triton.runtime.jit import JITFunction

from bitnet_jit.kernels.triton.codes import unpack


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1 before the first import)."""
    return not isinstance(unpack, JITFunction)


def uses_assembly() -> bool:
    """Whether kernels may hold NVIDIA's instructions."""
    return torch.version.hip is None and not interpreted()


def why_not(device_type: str) -> str | None:
    """Why no kernel of this backend can run on a type of device, or None."""
    wanted = "cpu" if interpreted() else "cuda"
    return None if device_type == wanted else f"serves {wanted!r} here, not {device_type!r}"
