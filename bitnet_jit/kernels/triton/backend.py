"""The record of this backend."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.triton import linear, rows
from bitnet_jit.kernels.triton.layout import LAYOUTS

BACKEND = Backend(name="triton", kernels=(*linear.KERNELS, *rows.KERNELS), layouts=LAYOUTS)
