"""A backend from outside the package, in a few lines: NumPy on the CPU, asked last."""

import numpy as np
import torch

from bitnet_jit.kernels.backend import Backend, Rates
from bitnet_jit.kernels.kernel import Kernel


def quantize(x):
    """Quantize rows (M, K) by their absolute maximum: codes int8, and a scale per row."""
    x = x.astype(np.float32)
    largest = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(1e-5))
    scale = np.float32(127) / largest
    return np.clip(np.rint(x * scale), -128, 127).astype(np.int8), (largest / np.float32(127))[:, 0]


def bind_call(bound, operands, device):
    """Return the call of a kernel on arrays: tensors to arrays in rows, and back."""

    def call(*tensors):
        arrays = bound(*(tensor.reshape(operands.rows, -1).numpy() for tensor in tensors))
        shapes = [output.shape for output in operands.outputs]
        results = tuple(torch.from_numpy(array.reshape(shape)) for array, shape in zip(arrays, shapes, strict=True))
        return results if len(results) > 1 else results[0]

    return call


def unsupported_reason(problem):
    """Refuse what NumPy has no dtype for."""
    return "NumPy has no bfloat16" if problem.x_dtype == "bfloat16" else None


KERNELS = (
    Kernel(
        "toy.quantize_activation",
        "quantize_activation",
        lambda problem, config: quantize,
        lambda problem: (None,),
        unsupported_reason,
    ),
)
TOY = Backend(
    name="toy",
    kernels=lambda: KERNELS,
    bind_call=bind_call,
    device_types=("cpu",),
    priority=-1,
    measure_rates=lambda device, threads: Rates(bytes=1e9, operations=0.0),
    describe=lambda: {"numpy": np.__version__},
)
