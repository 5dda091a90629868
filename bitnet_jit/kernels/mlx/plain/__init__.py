"""Kernels in MLX's own operations: the last choice for its arrays, and the only one where it has no GPU."""

from bitnet_jit.kernels.mlx.plain import attention, delta_net, hadamard, head, linear, norm, tokens, weights

MODULES = (attention, delta_net, linear, norm, hadamard, weights, head, tokens)
KERNELS = tuple(kernel for module in MODULES for kernel in module.KERNELS)
