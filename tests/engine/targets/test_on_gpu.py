"""The targets on a GPU: every figure is there, and bytes that are read are no more than there is bandwidth for."""

from dataclasses import replace

import pytest
import torch

import bitnet_jit
from bitnet_jit.engine.targets.bandwidth import COLD_BYTES
from bitnet_jit.engine.targets.run import QUICK, measure_targets


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device")
def test_all_targets_are_measured():
    options = replace(QUICK, device="cuda", large_shape=(8192, 8192), cold_bytes=COLD_BYTES)
    report = measure_targets(options, bitnet_jit.load(device="cuda"), "tiny", lambda stage: None)
    figures = {target.name: target.measured for target in report.targets}
    assert all(figure > 0 for figure in figures.values())
    assert 20 < figures["utilization"] < 130
    assert all(point.per_second > 0 for point in (*report.rows, *report.tokens))
