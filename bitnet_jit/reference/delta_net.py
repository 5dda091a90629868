"""The contract of `delta_net` in plain NumPy: Qwen3.5's gated delta rule (arXiv 2412.06464) on any mix of sequences.

A token has [q | k | v] of n_k, n_k and n_v heads of dk, dk and dv numbers, C in all, and a slot of the caches holds for
each sequence the last taps - 1 of these (history) and a state S (dk, dv) of each value head. For each token

    x = silu(sum over j of conv_weight[:, j] * mixed[token - (taps - 1) + j])        silu(x) = x / (1 + exp(-x))
    q, k of a head: x * rsqrt(sum x^2 + 1e-6);  q times dk^-0.5;  value head h has those of key head h // (n_v / n_k)
    beta = sigmoid(b);  g = exp(decay * softplus(a + dt_bias));  softplus(x) = x beyond 20, as in torch
    S = g S;  u = (v - S^T k) beta;  S = S + k u^T;  y = S^T q

A sequence whose first token in a call has position 0 begins with a state and a history of zeros, whatever its slot
holds. Kernels compute in float32, one token after the other with one order of sums: so a sequence's y and its slot are
the same bit for bit however it is cut into calls, and whoever shares them. Backends may differ from one another in last
bits. A NaN stays in the heads of its sequence. Values of positions, starts and slots are trusted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Recurred:
    """The result of a call.

    Attributes:
        y: (T, n_v * dv) float64; 0 for padding tokens.
        history: (S, taps - 1, C) after the call, as given.
        states: (S, n_v, dk, dv) float64 after the call.
    """

    y: Doubles
    history: Floats
    states: Doubles


def softplus(x: Doubles) -> Doubles:
    """Return log(1 + exp(x)), and x beyond 20.

    >>> softplus(np.array([-1e3, 0, 1e3])).round(3).tolist()
    [0.0, 0.693, 1000.0]
    """
    return np.where(x > 20, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def sigmoid(x: Doubles) -> Doubles:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def normalized(x: Doubles) -> Doubles:
    """Divide heads (heads, dk) by their lengths."""
    lengths: Doubles = np.sqrt((x * x).sum(-1, keepdims=True) + NORM_EPS)
    return x / lengths


def heads_of(x: Doubles, heads: int, dk: int, dv: int) -> tuple[Doubles, Doubles, Doubles]:
    """Return q, k (heads, dk) and v (heads, dv) of a token's numbers (C,) behind the convolution."""
    width = (len(x) - heads * dv) // 2
    q, k = (normalized(part.reshape(-1, dk)) for part in (x[:width], x[width : 2 * width]))
    group = heads * dk // width
    return q.repeat(group, 0) / np.sqrt(dk), k.repeat(group, 0), x[2 * width :].reshape(heads, dv)


def advance(state: Doubles, q: Doubles, k: Doubles, v: Doubles, g: Doubles, beta: Doubles) -> tuple[Doubles, Doubles]:
    """Return the state (heads, dk, dv) behind a token, and its y (heads, dv)."""
    state = g[:, None, None] * state
    u = (v - np.einsum("hkv,hk->hv", state, k)) * beta[:, None]
    state = state + k[:, :, None] * u[:, None]
    return state, np.einsum("hkv,hk->hv", state, q)


def gates_of(beta_alpha: Floats, decay: Floats, dt_bias: Floats) -> Doubles:
    """Return g and beta (T, 2, n_v) of tokens."""
    b, a = np.split(beta_alpha.astype(np.float64), 2, 1)
    return np.stack((np.exp(decay * softplus(a + dt_bias)), sigmoid(b)), 1)


def run_tokens(result: Recurred, slot: int, tokens: list[int], mixed: Floats, weight: Doubles, gates: Doubles) -> None:
    """Run a sequence's tokens over its slot: write y, the history and the state into a result."""
    heads, dk, dv = result.states.shape[1:]
    for t in tokens:
        window = np.concatenate((result.history[slot], mixed[t : t + 1]))
        x = (weight.T * window).sum(0)
        parts = heads_of(x * sigmoid(x), heads, dk, dv)
        result.states[slot], y = advance(result.states[slot], *parts, *gates[t])
        result.y[t], result.history[slot] = y.ravel(), window[1:]


def delta_net(
    mixed: Floats,
    beta_alpha: Floats,
    conv_weight: Floats,
    decay: Floats,
    dt_bias: Floats,
    history: Floats,
    states: Floats,
    positions: Ints,
    starts: Ints,
    slots: Ints,
) -> Recurred:
    """Run the gated delta rule over the tokens of a call, in float64.

    Args:
        mixed, beta_alpha: (T, C), [q | k | v] of each token, and (T, 2 n_v), b, then a.
        conv_weight, decay, dt_bias: (C, taps), the last tap on the token itself; (n_v,), -exp(A_log); (n_v,).
        history, states: (S, taps - 1, C), the oldest first, and (S, n_v, dk, dv).
        positions, starts, slots: (T,), -1 for padding; (R + 1,), sequence r has tokens starts[r]..starts[r + 1] - 1;
            (R,). Tokens from starts[R] on are padding.

    >>> one, caches = np.ones(1), (np.full((1, 1, 3), np.nan), np.full((1, 1, 1, 1), np.nan))
    >>> index = [np.array(a, np.int32) for a in ([0], [0, 1], [0])]
    >>> delta_net(np.ones((1, 3)), np.zeros((1, 2)), np.ones((3, 2)), -one, one, *caches, *index).y.round(3).tolist()
    [[0.366]]
    """
    result = Recurred(np.zeros((len(mixed), states[0, :, 0].size)), history.copy(), states.astype(np.float64))
    with np.errstate(all="ignore"):
        gates = gates_of(beta_alpha, decay, dt_bias)
        for r, slot in enumerate(slots):
            tokens = [t for t in range(starts[r], starts[r + 1]) if positions[t] >= 0]
            if tokens and positions[tokens[0]] == 0:
                result.history[slot], result.states[slot] = 0, 0
            run_tokens(result, slot, tokens, mixed, conv_weight.astype(np.float64), gates)
    return result
