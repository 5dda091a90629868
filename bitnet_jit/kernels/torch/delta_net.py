"""`delta_net` in plain torch operations: slow, and the same bits however a sequence is cut into calls.

The order of torch's sums depends on shapes, and that of its exp on the place. Here tokens are taken one by one, with
operations on tensors of the same shapes for every token, and sums over dk are chains.
"""

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.attention import always, exp, no_configs
from bitnet_jit.problem import Problem

NORM_EPS = 1e-6
LOG_TERMS = 9  # of the series of log1p


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Compute 1 / (1 + exp(-x)) of float32."""
    return 1.0 / (1.0 + exp(-x))


def softplus(x: torch.Tensor) -> torch.Tensor:
    """Compute log(1 + exp(x)) of float32, and x beyond 20; log1p(e) = 2 atanh(e / (2 + e)) by its series."""
    e = exp(-x.abs())
    s = e / (2.0 + e)
    square, series = s * s, torch.full_like(s, 1 / (2 * LOG_TERMS - 1))
    for term in range(LOG_TERMS - 2, -1, -1):
        series = series * square
        series = series + 1 / (2 * term + 1)
    return torch.where(x > 20, x, x.clamp(min=0.0) + 2.0 * s * series)


def decays(a: torch.Tensor, decay: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    """Compute g = exp(decay * softplus(a + dt_bias)) of float32."""
    exponent = decay * softplus(a + dt_bias)
    return torch.where(exponent < -87, 0.0, exp(exponent))


def total(x: torch.Tensor) -> torch.Tensor:
    """Sum x (heads, dk, ...) over dk, one after the other."""
    result = x[:, 0]
    for i in range(1, x.shape[1]):
        result = result + x[:, i]
    return result


def normalized(x: torch.Tensor) -> torch.Tensor:
    """Divide heads x (heads, dk) by their lengths."""
    return x / (total(x * x) + NORM_EPS).sqrt()[:, None]


@torch.inference_mode()
def advance(state, x, g, beta, problem: Problem) -> torch.Tensor:
    """Update a state (heads, dk, dv) by a token's numbers x (C,) behind the convolution; return y (heads, dv)."""
    heads, key_heads, dk = problem.heads, problem.kv_heads, problem.head_dim
    q, k, v = x.split((key_heads * dk, key_heads * dk, problem.out_features))
    q, k = (normalized(part.reshape(-1, dk)).repeat_interleave(heads // key_heads, 0) for part in (q, k))
    q = q * dk**-0.5
    faded = state * g[:, None, None]
    u = (v.reshape(heads, -1) - total(faded * k[..., None])) * beta[:, None]
    updated = faded + k[..., None] * u[:, None]
    state.copy_(updated)
    return total(updated * q[..., None])


@torch.inference_mode()
def convolve(window: torch.Tensor, conv_weight: torch.Tensor) -> torch.Tensor:
    """Convolve the last tokens (taps, C) of a sequence in float32, and apply silu; return (C,)."""
    x = window[0].float() * conv_weight[:, 0]
    for tap in range(1, len(window)):
        x = x + window[tap].float() * conv_weight[:, tap]
    return x / (1.0 + exp(-x))


def bind_delta_net(problem: Problem, config: Config):
    def run(mixed, beta_alpha, conv_weight, decay, dt_bias, history, states, positions, starts, slots) -> torch.Tensor:
        y, bounds, at = mixed.new_zeros(len(mixed), problem.out_features), starts.tolist(), positions.tolist()
        for start, end, slot in zip(bounds[:-1], bounds[1:], slots.tolist(), strict=True):
            tokens = [t for t in range(start, end) if at[t] >= 0]
            before, state = history[slot], states[slot]
            if tokens and at[tokens[0]] == 0:
                before.zero_()
                state.zero_()
            for t in tokens:
                b, a = beta_alpha[t].chunk(2)
                window = torch.cat((before, mixed[t : t + 1]))
                x, g = convolve(window, conv_weight), decays(a, decay, dt_bias)
                y[t] = advance(state, x, g, sigmoid(b), problem).flatten().to(y.dtype)
                before.copy_(window[1:])
        return y

    return run


KERNELS = (Kernel("torch.delta_net", "delta_net", bind_delta_net, no_configs, always),)
