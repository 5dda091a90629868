"""The contenders of a GPU: right, and right again after their graphs have run."""

from dataclasses import replace

import pytest
import torch

from benchmarks.harness import gpu
from benchmarks.harness.contender import wrong_reason
from benchmarks.harness.shapes import Shape
from benchmarks.harness.work import Work
from benchmarks.providers.linear import MATMUL, PROVIDERS

COPIES = 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device")
@pytest.mark.parametrize("name", MATMUL["cuda"].providers)
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_graphs_of_every_contender_leave_the_right_result(name, rows):
    work, asked = Work(Shape(64, 512), rows, "cuda"), PROVIDERS[name]
    if reason := asked.unsupported_reason(work):
        pytest.skip(reason)
    built = replace(asked.build(work, COPIES), copies=COPIES)
    assert wrong_reason(asked, built, work) is None
    times = gpu.measure([built], 1e-9)  # a graph's capture gives unused memory back: what it needs must be held
    assert 0 < times[name].min <= times[name].median
    assert wrong_reason(asked, built, work) is None
