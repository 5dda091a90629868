"""Plain torch kernels: the last choice in the registry, and the one that every device of torch can run."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.torch import linear, norm, weights
from bitnet_jit.packing import CANONICAL

BACKEND = Backend(
    name="torch",
    kernels=(*linear.KERNELS, *norm.KERNELS, *weights.KERNELS),
    layouts=tuple(CANONICAL.values()),
)
