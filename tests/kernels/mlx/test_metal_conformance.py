"""The Metal kernels agree with the fallback, launched as on a Mac; their sources run in the host harness."""

import os

import pytest
import torch
from metal_host.fake_mlx import metal
from metal_host.host import find_compiler

from bitnet_jit.kernels.mlx.metal import KERNELS
from bitnet_jit.ops.op import OPS
from bitnet_jit.tuning.conformance import ALL_CONFIGS, check, problems_of

pytestmark = pytest.mark.skipif(
    find_compiler() is None and "CI" not in os.environ, reason="needs clang++ and its sanitizers: apt install clang"
)
FEW = 1  # problems per kernel by default; each is compiled


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_agrees_with_the_fallback(kernel):
    with metal():
        problems = [p for p in problems_of(OPS[kernel.op].spec, "mlx") if kernel.unsupported_reason(p) is None]
        assert problems
        for problem in problems[:: 1 if ALL_CONFIGS else -(-len(problems) // FEW)]:
            check(kernel, problem, torch.device("cpu"))
