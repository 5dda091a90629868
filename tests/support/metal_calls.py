"""Metal's kernels called as `kernels/mps` calls them, on NumPy arrays, in the host harness."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings
from metal_host.fake_mps import mps
from metal_host.host import find_compiler

from bitnet_jit.kernels.metal.layout import I2_WORDS
from bitnet_jit.kernels.mps import BACKEND
from bitnet_jit.ops.op import OPS
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import Problem, rows_bucket

needs_clang = pytest.mark.skipif(
    find_compiler() is None and "CI" not in os.environ, reason="clang is not installed (apt install clang)"
)
# the fewer of this and the profile's: most examples compile something
max_examples = settings(max_examples=min(8, settings.default.max_examples), deadline=None)
KERNELS = {kernel.name.partition(".")[2]: kernel for kernel in BACKEND.kernels()}


def problem_of(op, shape, **fields):
    """Return the problem of an op for (rows, out_features, in_features)."""
    rows, out_features, in_features = shape
    return Problem(op, "mps", rows_bucket(rows), out_features, in_features, layout=I2_WORDS.name, **fields)


def packed(w_q):
    """Return w_q (N, K) int8 in the layout of Metal's kernels."""
    return I2_WORDS.from_canonical(FORMATS["i2"].pack(w_q), *w_q.shape)


def tensor(array, dtype=None):
    """Return an array as a tensor, of another dtype if one is named; None as it is."""
    if array is None or not isinstance(array, np.ndarray | np.generic):
        return array
    made = torch.from_numpy(np.array(array))
    return made if dtype is None else made.to(getattr(torch, dtype))


def rounded(array, dtype):
    """Return float32 numbers rounded to a dtype and widened again."""
    return tensor(array, dtype).float().numpy()


def call(kernel, problem, config, *arguments):
    """Return a kernel's outputs, as NumPy arrays; bfloat16 is widened."""
    tensors = [tensor(a) if isinstance(a, np.ndarray | np.generic) else a for a in arguments]
    operands = OPS[problem.op].spec.operands_of(problem, tensors[0].shape[:-1])
    with mps():
        result = BACKEND.bind_call(kernel.bind(problem, config), operands, tensors[0].device)(*tensors)
    results = result if isinstance(result, tuple) else (result,)
    arrays = tuple((y.float() if y.dtype.is_floating_point else y).numpy() for y in results)
    return arrays if len(arrays) > 1 else arrays[0]
