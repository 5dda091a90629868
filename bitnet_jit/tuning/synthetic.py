"""Made-up arguments for the calls of a problem, to be timed."""

from typing import Any

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import ARGUMENTS
from bitnet_jit.problem import Problem

EPS = 1e-5
COLD_ROWS = 16  # to so many, weights come from memory in a model, since others have passed since the last time
COLD_BYTES = 256 << 20  # of copies of a weight, more than caches hold
MAX_COPIES = 64


def first_features(problem: Problem) -> int:
    """The last dimension of an op's first argument."""
    return problem.out_features if problem.op == "bit_linear_input_grad" else problem.in_features


def first_shape(problem: Problem) -> torch.Size:
    """The shape of an op's first argument."""
    if problem.op == "quantize_weight":
        return torch.Size((problem.out_features, problem.in_features))
    if problem.op == "dequantize_weight":
        return torch.Size(registry.get_layout(problem.layout).shape(problem.out_features, problem.in_features))
    return torch.Size((problem.rows, first_features(problem)))


def argument_sets(problem: Problem, device: torch.device) -> list[tuple[Any, ...]]:
    """Arguments of a problem's calls: alike but for the weight, of which there are copies where rows are few."""
    made = make_arguments(problem, device)
    names = ARGUMENTS[problem.op]
    if "w_packed" not in names:
        return [tuple(made[name] for name in names)]
    weight = made["w_packed"]
    copies = min(MAX_COPIES, -(-COLD_BYTES // weight.nbytes)) if problem.rows <= COLD_ROWS else 1
    weights = [weight, *(weight.clone() for _ in range(copies - 1))]
    return [tuple((made | {"w_packed": packed})[name] for name in names) for packed in weights]


def make_arguments(problem: Problem, device: torch.device) -> dict[str, Any]:
    """One of each argument by name."""
    generator = torch.Generator(device).manual_seed(0)
    rows, features = problem.rows, first_features(problem)

    def floats(*shape: int, dtype: str = problem.x_dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(getattr(torch, dtype))

    found: dict[str, Any] = {"eps": EPS, "bias": None, "weight": None}
    if problem.op == "quantize_weight":
        return found | {"weight": floats(problem.out_features, problem.in_features)}
    if problem.x_dtype == "int8":
        found["x_q"] = torch.randint(-127, 128, (rows, features), generator=generator, device=device, dtype=torch.int8)
        found["x_scale"] = torch.rand(rows, generator=generator, device=device, dtype=torch.float32)
    elif problem.x_dtype != "uint8":
        found |= {name: floats(rows, features) for name in ("x", "dy", "gate", "up")}
    if problem.bias:
        has_weight = "weight" in ARGUMENTS[problem.op]
        found["weight" if has_weight else "bias"] = floats(problem.out_features, dtype=problem.bias)
    if problem.layout:
        size = (problem.out_features, problem.in_features)
        codes = torch.randint(-1, 2, size, generator=generator, device=device, dtype=torch.int8)
        layout = registry.get_layout(problem.layout)
        found["w_packed"] = layout.from_canonical(layout.format.pack(codes), *size)
        scales = torch.rand(scale_shape(problem), generator=generator, device=device, dtype=torch.float32)
        found["w_scale"] = 0.01 + scales
    return found


def scale_shape(problem: Problem) -> tuple[int, ...]:
    """Of the weight's scales."""
    if problem.scale == "group":
        return problem.out_features, -(-problem.in_features // problem.group_size)
    return (problem.out_features,) if problem.scale == "row" else ()
