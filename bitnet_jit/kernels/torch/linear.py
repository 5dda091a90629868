"""Ternary matmul and linear layers in plain torch operations: slow, exact, and at home on every device that torch has.

Products of codes are whole numbers, so a float32 matmul is exact while its partial sums stay under 2^24: K is cut into
pieces of 65,536 inputs, N into pieces that bound the memory of the unpacked weight.
"""

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.norm import quantize_rows
from bitnet_jit.kernels.unpacking import EXACT_INPUTS, unpacked_chunks
from bitnet_jit.problem import Problem


def accumulate(x_q: torch.Tensor, w_q: torch.Tensor) -> torch.Tensor:
    """Multiply x_q (M, K) int8 and w_q (n, K) int8 to (M, n) int32, exactly."""
    acc = torch.zeros(x_q.shape[0], w_q.shape[0], dtype=torch.int32, device=x_q.device)
    for start in range(0, x_q.shape[1], EXACT_INPUTS):
        part = slice(start, start + EXACT_INPUTS)
        acc += (x_q[:, part].float() @ w_q[:, part].float().T).to(torch.int32)
    return acc


def bind_ternary_matmul(problem: Problem, config: Config):
    def run(x_q: torch.Tensor, w_packed: torch.Tensor) -> torch.Tensor:
        return torch.cat([accumulate(x_q, w_q) for _, w_q in unpacked_chunks(w_packed, problem)], 1)

    return run


def scaled(x_q: torch.Tensor, x_scale: torch.Tensor, w_q: torch.Tensor, w_scale: torch.Tensor, group_size: int):
    """Multiply codes and scales to float32 (M, n) without bias.

    w_scale is (), (n,) or (n, groups); x_scale (M,), or (M, groups) beside such a w_scale.
    """
    if w_scale.dim() < 2:
        return accumulate(x_q, w_q).float() * (x_scale[:, None] * w_scale)
    y = torch.zeros(x_q.shape[0], w_q.shape[0], dtype=torch.float32, device=x_q.device)
    for group in range(w_scale.shape[1]):
        part = slice(group * group_size, (group + 1) * group_size)
        scale = w_scale[:, group] if x_scale.dim() == 1 else x_scale[:, group, None] * w_scale[:, group]
        y += accumulate(x_q[:, part], w_q[:, part]).float() * scale
    return y * x_scale[:, None] if x_scale.dim() == 1 else y


def bind_quantized_linear(problem: Problem, config: Config):
    def run(x_q, x_scale, w_packed, w_scale, bias) -> torch.Tensor:
        y = torch.empty(x_q.shape[0], problem.out_features, dtype=torch.float32, device=x_q.device)
        for start, w_q in unpacked_chunks(w_packed, problem):
            part = slice(start, start + w_q.shape[0])
            y[:, part] = scaled(x_q, x_scale, w_q, w_scale[part] if w_scale.dim() else w_scale, problem.group_size)
        y = y if bias is None else y + bias.float()
        return y.to(getattr(torch, problem.y_dtype))

    return run


def quantize_groups(x: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize groups of inputs of x (M, K) float32 to x_q int8, x_scale (M, ceil(K / group_size)) float32."""
    size = min(group_size, x.shape[1])
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % size))
    x_q, x_scale = quantize_rows(padded.reshape(-1, size))
    return x_q.reshape(padded.shape)[:, : x.shape[1]], x_scale.reshape(x.shape[0], -1)


def bind_bit_linear(problem: Problem, config: Config):
    linear = bind_quantized_linear(problem, config)

    def run(x, w_packed, w_scale, bias) -> torch.Tensor:
        by_group = problem.activation == "a8g"
        codes = quantize_groups(x.float(), problem.group_size) if by_group else quantize_rows(x.float())
        return linear(*codes, w_packed, w_scale, bias)

    return run


def scale_of(w_scale: torch.Tensor, part: slice, problem: Problem) -> torch.Tensor:
    """Return the scales of some outputs: (), (n,), or (n, K) where groups of inputs have scales."""
    scale = w_scale[part] if w_scale.dim() else w_scale
    if scale.dim() < 2:
        return scale
    group_size = min(problem.group_size, problem.in_features)
    return scale.repeat_interleave(group_size, 1)[:, : problem.in_features]


def bind_bit_linear_a16(problem: Problem, config: Config):
    def run(x, w_packed, w_scale, bias) -> torch.Tensor:
        y = torch.empty(x.shape[0], problem.out_features, dtype=torch.float32, device=x.device)
        for start, w_q in unpacked_chunks(w_packed, problem):
            part = slice(start, start + w_q.shape[0])
            scale = scale_of(w_scale, part, problem)
            if scale.dim() == 2:
                y[:, part] = x.float() @ (w_q * scale).T
            else:
                y[:, part] = (x.float() @ w_q.float().T) * scale
        y = y if bias is None else y + bias.float()
        return y.to(getattr(torch, problem.y_dtype))

    return run


def bind_input_grad(problem: Problem, config: Config):
    def run(dy, w_packed, w_scale) -> torch.Tensor:
        dx = torch.zeros(dy.shape[0], problem.in_features, dtype=torch.float32, device=dy.device)
        for start, w_q in unpacked_chunks(w_packed, problem):
            part = slice(start, start + w_q.shape[0])
            scale = scale_of(w_scale, part, problem)
            dx += dy[:, part].float() @ (w_q.float() * (scale[:, None] if scale.dim() == 1 else scale))
        return dx.to(dy.dtype)

    return run


def always(problem: Problem) -> str | None:
    return None


def a8_unsupported_reason(problem: Problem) -> str | None:
    return "serves activation='a8' and 'a8g'" if problem.activation == "a16" else None


def a16_unsupported_reason(problem: Problem) -> str | None:
    return "serves activation='a16'" if problem.activation in ("a8", "a8g") else None


def no_configs(problem: Problem) -> tuple[Config, ...]:
    return (None,)


KERNELS = (
    Kernel("torch.ternary_matmul", "ternary_matmul", bind_ternary_matmul, no_configs, always),
    Kernel("torch.quantized_linear", "quantized_linear", bind_quantized_linear, no_configs, always),
    Kernel("torch.bit_linear", "bit_linear", bind_bit_linear, no_configs, a8_unsupported_reason),
    Kernel("torch.bit_linear_a16", "bit_linear", bind_bit_linear_a16, no_configs, a16_unsupported_reason),
    Kernel("torch.bit_linear_input_grad", "bit_linear_input_grad", bind_input_grad, no_configs, always),
)
