"""Triton kernels for NVIDIA and AMD GPUs. Not in the register yet (see docs/design.md)."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.triton import linear
from bitnet_jit.kernels.triton.layout import LAYOUTS
from bitnet_jit.kernels.triton.target import why_not

BACKEND = Backend(name="triton", why_not=why_not, kernels=linear.KERNELS, layouts=LAYOUTS)
