"""Every kernel of MLX agrees with the fallback where MLX has no GPU, on problems made from the records of ops."""

import pytest
import torch

from bitnet_jit.tuning.conformance import ALL_CONFIGS, check, kernels_with_problems

EACH = [
    pytest.param(kernel, problems, id=kernel.name)
    for kernel, problems in kernels_with_problems("mlx")
    if kernel.backend == "mlx" and problems
]
FEW = 40  # problems per kernel by default; nothing is compiled


@pytest.mark.parametrize(("kernel", "problems"), EACH)
def test_every_kernel_agrees_with_the_fallback(kernel, problems):
    step = 1 if ALL_CONFIGS else -(-len(problems) // (3 if "attention" in kernel.op else FEW))
    for problem in problems[::step]:
        check(kernel, problem, torch.device("cpu"))


def test_every_op_that_torch_has_kernels_for_has_a_plain_one():
    from bitnet_jit.kernels import registry

    ops = {kernel.op for kernel in registry.kernels_of("torch")}
    plain = {kernel.op for kernel in registry.kernels_of("mlx") if kernel.name.startswith("mlx.plain_")}
    assert plain == ops
