"""Shared by the tests of the Triton kernels: their device, and one kernel called as the ops call it."""

import numpy as np
import pytest
import torch
from hypothesis import settings

pytest.importorskip("triton", reason="the package triton is not installed")

from bitnet_jit.devices.kinds import find_gpu
from bitnet_jit.kernels.triton import BACKEND
from bitnet_jit.kernels.triton.device.target import interpreted
from bitnet_jit.kernels.triton.tensors import bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem, rows_bucket

DEVICE = torch.device("cpu" if interpreted() else "cuda")
ON_GPU = not interpreted() and torch.cuda.is_available()
LAYOUTS = {layout.name: layout for layout in BACKEND.layouts()}
needs_device = pytest.mark.skipif(
    not interpreted() and not torch.cuda.is_available(), reason="there is no GPU, and TRITON_INTERPRET is not set"
)


# the fewer of this and the profile's: for most examples something is compiled
max_examples = settings(max_examples=min(25, settings.default.max_examples))


def every(*problems):
    """Parametrize a test over the backend's kernels that take at least one of some problems."""
    kernels = [
        kernel
        for kernel in BACKEND.kernels()
        if any(kernel.op == problem.op and kernel.unsupported_reason(problem) is None for problem in problems)
    ]
    return pytest.mark.parametrize("kernel", kernels, ids=lambda kernel: kernel.name)


def problem_of(op, shape, **fields):
    """Return the problem of an op for (rows, out_features, in_features) on the tests' device."""
    rows, out_features, in_features = shape
    gpu = find_gpu(torch.device("cuda", 0)) if ON_GPU else None
    return Problem(op, DEVICE.type, rows_bucket(rows), out_features, in_features, gpu=gpu, **fields)


def operands_of(problem, leading):
    """Return the operands of a call that poses a problem, with its leading dimensions."""
    return OPS[problem.op].spec.operands_of(problem, leading)


def call(kernel, problem, config, *operands):
    """Return the kernel's outputs for operands of any kind of array, as NumPy arrays; bfloat16 is widened."""
    on_device = [on(a) if isinstance(a, np.ndarray | np.generic | torch.Tensor) else a for a in operands]
    first = on_device[0]
    bound, operands = kernel.bind(problem, config), operands_of(problem, first.shape[:-1])
    result = bind_call(bound, operands, first.device)(*on_device)
    return tuple(map(array, result)) if isinstance(result, tuple) else array(result)


def on(a):
    """Return a tensor on the tests' device; a NumPy array is copied."""
    return a.to(DEVICE) if isinstance(a, torch.Tensor) else torch.from_numpy(np.array(a)).to(DEVICE)


def array(tensor):
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def laid(w_q, layout="i2/planes"):
    """Lay codes (N, K) in a layout of the kernels."""
    return LAYOUTS[layout].from_canonical(LAYOUTS[layout].format.pack(w_q), *w_q.shape)
