"""Torch tensors to the addresses that Numba kernels take."""


def bind(kernel, config, problem):
    raise NotImplementedError
