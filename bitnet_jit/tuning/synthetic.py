"""Synthetic inputs of a problem's calls, to be timed."""

from typing import Any

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.operands import Operand, Operands
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

NUMBER = 1e-5  # a norm's epsilon
MIN_SCALE = 0.01
COLD_ROWS = 16  # to so many, weights come from memory in a model, since others have passed since the last time
COLD_BYTES = 256 << 20  # of copies of a weight, more than caches hold
MAX_COPIES = 64
WEIGHT = "w_packed"
WEIGHTS = (WEIGHT, "head")  # operands that a model has one of per layer, and that come from memory where rows are few


def operands_of(problem: Problem) -> Operands:
    """Return the operands of a call with as many rows as the problem's bucket has."""
    return OPS[problem.op].spec.operands_of(problem, (problem.rows,))


def argument_sets(problem: Problem, device: torch.device) -> list[tuple[Any, ...]]:
    """Return arguments of a problem's calls: alike but for the weight, of which there are copies where rows are few."""
    operands = operands_of(problem)
    values = synthetic_values(operands, device)
    names = [name for name in WEIGHTS if name in values]
    if not names:
        return [tuple(values[name] for name in operands.arguments)]
    weight = values[names[0]]
    copies = min(MAX_COPIES, -(-COLD_BYTES // weight.nbytes)) if problem.rows <= COLD_ROWS else 1
    weights = [weight, *(weight.clone() for _ in range(copies - 1))]
    return [tuple((values | {names[0]: copied})[name] for name in operands.arguments) for copied in weights]


def synthetic_values(operands: Operands, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Return a value of each argument by its name; None for a tensor that is absent."""
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {operand.name: synthetic_tensor(operand, operands.problem, generator) for operand in operands.inputs}
    for tensor in OPS[operands.problem.op].spec.tensors:
        if tensor.synthetic is not None and tensors[tensor.name] is not None:
            tensors[tensor.name] = tensor.synthetic(operands).to(device)
    return tensors | dict.fromkeys(operands.numbers, NUMBER)


def synthetic_tensor(operand: Operand, problem: Problem, generator: torch.Generator) -> torch.Tensor | None:
    """Return a tensor: codes and packed weights uniform, scales positive, all else of the normal distribution."""
    if not operand.dtype:
        return None
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    if operand.name == WEIGHT:
        shape = (problem.out_features, problem.in_features)
        layout = registry.get_layout(problem.layout)
        codes = torch.randint(-1, 2, shape, dtype=torch.int8, **options)
        packed: torch.Tensor = layout.from_canonical(layout.format.pack(codes), *shape)
        return packed
    if operand.dtype == "int8":
        return torch.randint(-127, 128, operand.shape, dtype=torch.int8, **options)
    if operand.name.endswith("_scale"):
        return MIN_SCALE + torch.rand(operand.shape, dtype=torch.float32, **options)
    return torch.randn(operand.shape, dtype=torch.float32, **options).to(getattr(torch, operand.dtype))
