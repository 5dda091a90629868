"""Kernels by backend: a folder whose `__init__.py` holds BACKEND, and a name below.

`registry.register` adds a backend from outside the package.
"""

from bitnet_jit.kernels import mlx, mps, numba, registry, torch, triton

for folder in (numba, triton, mps, mlx, torch):
    registry.register(folder.BACKEND)
