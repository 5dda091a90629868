"""Every kernel of Metal agrees with the fallback, launched as on torch's mps tensors; the host harness runs it."""

import pytest
import torch
from metal_calls import KERNELS, needs_clang
from metal_host.fake_mps import mps

from bitnet_jit.ops.op import OPS
from bitnet_jit.tuning.conformance import ALL_CONFIGS, check, problems_of

pytestmark = needs_clang


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_kernel_agrees_with_the_fallback(kernel):
    problems = [p for p in problems_of(OPS[kernel.op].spec, "mps") if kernel.unsupported_reason(p) is None]
    assert problems
    with mps():
        for problem in problems if ALL_CONFIGS else problems[len(problems) // 2 :][:1]:
            check(kernel, problem, torch.device("cpu"))
