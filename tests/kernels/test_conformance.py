"""Every kernel of every backend agrees with the fallback, on problems that are made from the records of ops."""

import pytest
import torch

from bitnet_jit.devices.kinds import available_types
from bitnet_jit.tuning.conformance import ALL_CONFIGS, check, kernels_with_problems

DEVICES = available_types()
EACH = [
    pytest.param(device, kernel, problems, id=f"{device}-{kernel.name}")
    for device in DEVICES
    for kernel, problems in kernels_with_problems(device)
]
FEW = 3  # problems per kernel by default; each is compiled


@pytest.mark.parametrize(("device", "kernel", "problems"), EACH)
def test_every_kernel_agrees_with_the_fallback(device, kernel, problems):
    if not problems:
        pytest.skip(f"{kernel.name} refuses all of them on this device")
    step = 1 if ALL_CONFIGS else -(-len(problems) // FEW)
    for problem in problems[::step]:
        check(kernel, problem, torch.device(device, 0))
