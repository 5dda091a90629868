"""`delta_net` in MLX's own operations: slow, and the same bits however a sequence is cut into calls.

Tokens are taken one by one, with operations on arrays of the same shapes for every token, and sums over dk are chains.
"""

from collections.abc import Callable

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.attention import numbers, sequences
from bitnet_jit.kernels.mlx.plain.exponential import exp, sigmoid
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import Problem

NORM_EPS = 1e-6
LOG_TERMS = 9  # of the series of log1p
LINEAR, NEGLIGIBLE = 20, -87  # softplus(x) is x from here on; exp(x) is nothing below


def softplus(x: mx.array) -> mx.array:
    """Compute log(1 + exp(x)) of float32, and x beyond 20; log1p(e) = 2 atanh(e / (2 + e)) by its series."""
    e = exp(-mx.abs(x))
    s = e / (2.0 + e)
    square, series = s * s, mx.full(s.shape, 1 / (2 * LOG_TERMS - 1), dtype=mx.float32)
    for term in range(LOG_TERMS - 2, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    return mx.where(x > LINEAR, x, mx.maximum(x, 0.0) + 2.0 * s * series)


def decays(a: mx.array, decay: mx.array, dt_bias: mx.array) -> mx.array:
    """Compute g = exp(decay * softplus(a + dt_bias)) of float32."""
    exponent = decay * softplus(a + dt_bias)
    return mx.where(exponent < NEGLIGIBLE, 0.0, exp(exponent))


def total(x: mx.array) -> mx.array:
    """Sum x (heads, dk, ...) over dk, one after the other."""
    result = x[:, 0]
    for i in range(1, x.shape[1]):
        result = result + x[:, i]
    return result


def normalized(x: mx.array) -> mx.array:
    """Divide heads x (heads, dk) by their lengths."""
    return x / mx.sqrt(total(x * x) + NORM_EPS)[:, None]


def advance(state: mx.array, x: mx.array, g: mx.array, beta: mx.array, problem: Problem) -> tuple[mx.array, mx.array]:
    """Return y (heads, dv) of a token's numbers x (C,) behind the convolution, and the state (heads, dk, dv) then."""
    heads, key_heads, dk = problem.heads, problem.kv_heads, problem.head_dim
    q, k, v = mx.split(x, [key_heads * dk, 2 * key_heads * dk])
    q, k = (mx.repeat(normalized(part.reshape(-1, dk)), heads // key_heads, axis=0) for part in (q, k))
    q = q * dk**-0.5
    faded = state * g[:, None, None]
    u = (v.reshape(heads, -1) - total(faded * k[..., None])) * beta[:, None]
    updated = faded + k[..., None] * u[:, None]
    return total(updated * q[..., None]), updated


def convolve(window: mx.array, conv_weight: mx.array) -> mx.array:
    """Convolve the last tokens (taps, C) of a sequence in float32, and apply silu; return (C,)."""
    wide = window.astype(mx.float32)
    x = wide[0] * conv_weight[:, 0]
    for tap in range(1, window.shape[0]):
        x = x + wide[tap] * conv_weight[:, tap]
    return x / (1.0 + exp(-x))


def bind_delta_net(problem: Problem, config: Config) -> Callable[..., tuple[mx.array, mx.array, mx.array]]:
    def run(
        mixed: mx.array,
        beta_alpha: mx.array,
        conv_weight: mx.array,
        decay: mx.array,
        dt_bias: mx.array,
        history: mx.array,
        states: mx.array,
        positions: mx.array,
        starts: mx.array,
        slots: mx.array,
    ) -> tuple[mx.array, mx.array, mx.array]:
        y = mx.zeros((mixed.shape[0], problem.out_features), dtype=mixed.dtype)
        history, states, places = mx.array(history), mx.array(states), numbers(slots)
        beta, alpha = mx.split(beta_alpha, 2, 1)
        beta, g = sigmoid(beta), decays(alpha, decay, dt_bias)
        for sequence, tokens, at in sequences(positions, starts):
            slot = places[sequence]
            before, state = history[slot], states[slot]
            if at[0] == 0:
                before, state = mx.zeros_like(before), mx.zeros_like(state)
            for t in tokens:
                window = mx.concatenate([before, mixed[t : t + 1]])
                out, state = advance(state, convolve(window, conv_weight), g[t], beta[t], problem)
                y[t], before = out.flatten().astype(y.dtype), window[1:]
                mx.eval(y, state)  # so that the graph of a long text does not pile up
            history[slot], states[slot] = before, state
        return y, history, states

    return run


KERNELS = (plain_kernel("delta_net", bind_delta_net),)
