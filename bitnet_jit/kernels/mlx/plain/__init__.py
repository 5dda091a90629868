"""Kernels in MLX's own operations, which run on every device that MLX has."""

KERNELS = ()
