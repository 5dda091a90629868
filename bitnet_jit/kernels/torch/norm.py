"""Row-wise ops in plain torch: activation quantization, RMSNorm and their fusions, as `reference.py` has them."""

from collections.abc import Callable

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import EPS, Problem


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize x (M, K) float32 to x_q int8, x_scale (M,) float32; a row with NaN or infinity: codes 0, scale NaN."""
    absmax = x.abs().amax(1) if x.shape[1] else x.new_zeros(x.shape[0])
    bad = ~torch.isfinite(absmax)
    absmax = torch.where(bad, 1.0, absmax.clamp(min=EPS))
    # a division by a float32 tensor: torch turns division by a Python number into a product on some devices
    scaled = torch.where(bad[:, None], 0.0, x) * (torch.full_like(absmax, 127) / absmax)[:, None]
    x_scale = absmax / torch.full_like(absmax, 127)
    return scaled.round().clamp(-128, 127).to(torch.int8), torch.where(bad, torch.nan, x_scale)


def norm_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalize x (..., K) float32 by weight (K,) to (..., K) float32."""
    mean = (x * x).mean(-1, keepdim=True) if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)
    return x * (torch.ones_like(mean) / (mean + eps).sqrt()) * weight.float()


def relu2_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return relu(gate)^2 * up (..., K) in float32."""
    return gate.float().relu() ** 2 * up.float()


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (..., K) in float32."""
    return torch.nn.functional.silu(gate.float()) * up.float()


def sigmoid_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return sigmoid(gate) * up (..., K) in float32."""
    return torch.sigmoid(gate.float()) * up.float()


def gelu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return gelu(gate) * up (..., K) by tanh in float32."""
    return torch.nn.functional.gelu(gate.float(), approximate="tanh") * up.float()


def norm_gradients(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    """Return dx (..., K) and dw (K,) of x r w with r = 1 / sqrt(mean x^2 + eps), in float32; itself differentiable."""
    wide, scaled = x.float(), dy.float() * weight.float()
    r = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    dx = r * (scaled - wide * r.square() * (scaled * wide).mean(-1, keepdim=True))
    dw = (dy.float() * wide * r).reshape(-1, x.shape[-1]).sum(0)
    return dx.to(x.dtype), dw.to(weight.dtype)


def bind_quantize_activation(problem: Problem, config: Config):
    return lambda x: quantize_rows(x.float())


def bind_rms_norm(problem: Problem, config: Config):
    return lambda x, weight, eps: norm_rows(x.float(), weight, eps).to(x.dtype)


def bind_rms_norm_gradients(problem: Problem, config: Config):
    return norm_gradients


def bind_rms_norm_quantize(problem: Problem, config: Config):
    return lambda x, weight, eps: quantize_rows(norm_rows(x.float(), weight, eps))


def bind_add_rms_norm(problem: Problem, config: Config):
    def run(x, delta, weight, eps):
        total = x + delta
        return total, norm_rows(total.float(), weight, eps).to(x.dtype)

    return run


def bind_add_rms_norm_quantize(problem: Problem, config: Config):
    def run(x, delta, weight, eps):
        total = x + delta
        return total, *quantize_rows(norm_rows(total.float(), weight, eps))

    return run


def bind_relu2_mul_norm(problem: Problem, config: Config):
    return lambda gate, up, weight, eps: norm_rows(relu2_mul(gate, up), weight, eps).to(gate.dtype)


def bind_relu2_mul_norm_quantize(problem: Problem, config: Config):
    return lambda gate, up, weight, eps: quantize_rows(norm_rows(relu2_mul(gate, up), weight, eps))


def bind_silu_mul_norm(problem: Problem, config: Config):
    return gated_norm(silu_mul)


def bind_sigmoid_mul_norm(problem: Problem, config: Config):
    return gated_norm(sigmoid_mul)


def bind_gelu_mul_norm(problem: Problem, config: Config):
    return gated_norm(gelu_mul)


def gated_norm(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return what multiplies gate and up, and normalizes the product if there is a weight."""

    def run(gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        product = multiply(gate, up)
        return (product if weight is None else norm_rows(product, weight, eps)).to(gate.dtype)

    return run


def bind_silu_mul_norm_quantize(problem: Problem, config: Config):
    def run(gate, up, weight, eps):
        product = silu_mul(gate, up)
        return quantize_rows(product if weight is None else norm_rows(product, weight, eps))

    return run


def always(problem: Problem) -> str | None:
    return None


def no_configs(problem: Problem) -> tuple[Config, ...]:
    return (None,)


KERNELS = (
    Kernel("torch.quantize_activation", "quantize_activation", bind_quantize_activation, no_configs, always),
    Kernel("torch.rms_norm", "rms_norm", bind_rms_norm, no_configs, always),
    Kernel("torch.rms_norm_gradients", "rms_norm_gradients", bind_rms_norm_gradients, no_configs, always),
    Kernel("torch.rms_norm_quantize", "rms_norm_quantize", bind_rms_norm_quantize, no_configs, always),
    Kernel("torch.add_rms_norm", "add_rms_norm", bind_add_rms_norm, no_configs, always),
    Kernel("torch.add_rms_norm_quantize", "add_rms_norm_quantize", bind_add_rms_norm_quantize, no_configs, always),
    Kernel("torch.relu2_mul_norm", "relu2_mul_norm", bind_relu2_mul_norm, no_configs, always),
    Kernel("torch.silu_mul_norm", "silu_mul_norm", bind_silu_mul_norm, no_configs, always),
    Kernel("torch.sigmoid_mul_norm", "sigmoid_mul_norm", bind_sigmoid_mul_norm, no_configs, always),
    Kernel("torch.gelu_mul_norm", "gelu_mul_norm", bind_gelu_mul_norm, no_configs, always),
    Kernel(
        "torch.relu2_mul_norm_quantize", "relu2_mul_norm_quantize", bind_relu2_mul_norm_quantize, no_configs, always
    ),
    Kernel("torch.silu_mul_norm_quantize", "silu_mul_norm_quantize", bind_silu_mul_norm_quantize, no_configs, always),
)
