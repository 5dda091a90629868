"""The kernels that split K, ten thousand times each on a GPU: no checker sees races in global memory, equal sums do."""

import numpy as np
import pytest
import torch
from triton_calls import BACKEND, DEVICE, ON_GPU, on, operands_of
from triton_codes import arguments, draw, exact_problem, expected

from bitnet_jit.kernels.triton.tensors import bind_call

RUNS = 10_000
SPLIT = [kernel for kernel in BACKEND.kernels() if kernel.name.startswith(("triton.small", "triton.split"))]
SHAPES = ((8, 2560, 6912), (16, 256, 8192), (5, 100, 700))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
@pytest.mark.parametrize("kernel", SPLIT, ids=lambda kernel: kernel.name)
def test_ten_thousand_runs_are_equal(kernel):
    for shape in SHAPES:
        x, x_q, w_q = draw(shape, None)
        operands = (x, x_q, np.ones(shape[0], np.float32), w_q, np.float32(0.5), None)
        problem = exact_problem(kernel.op, shape, "i2/planes")
        tensors = [None if a is None else on(a) for a in arguments(kernel.op, "i2/planes", *operands)]
        bound = kernel.bind(problem, kernel.configs(problem)[0])
        call = bind_call(bound, operands_of(problem, tensors[0].shape[:-1]), DEVICE)
        wanted = on(expected(kernel.op, *operands))
        wrong = torch.zeros((), dtype=torch.int64, device=DEVICE)
        for _ in range(RUNS // len(SHAPES) + 1):
            wrong += (call(*tensors) != wanted).sum()
        assert wrong.item() == 0
