"""Kernels in torch's own operations: the last choice in the registry, and the one for every device of torch."""

from typing import Any

from bitnet_jit.kernels.backend import Backend, Call, Rates
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.packing import CANONICAL


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels."""
    from bitnet_jit.kernels.torch import attention, delta_net, hadamard, head, linear, norm, tokens, weights

    modules = (attention, delta_net, linear, norm, hadamard, weights, head, tokens)
    return tuple(kernel for module in modules for kernel in module.KERNELS)


def bind_call(bound: Any, operands: Operands, device: Any) -> Call:
    """Return what runs a bound kernel on torch tensors."""
    from bitnet_jit.kernels.torch.tensors import bind_call

    return bind_call(bound, operands)


def measure_rates(device: Any, threads: int) -> Rates:
    """Measure how fast torch reads memory on a device."""
    from bitnet_jit.kernels.torch.limits import measure_rates

    return measure_rates(device)


BACKEND = Backend(
    name="torch",
    packages=("torch",),
    fallback=True,
    kernels=kernels,
    layouts=lambda: tuple(CANONICAL.values()),
    layouts_need_package=False,
    bind_call=bind_call,
    measure_rates=measure_rates,
)
