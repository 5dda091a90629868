"""The contract of `delta_net` in plain NumPy: the gated delta rule of Qwen3.5 (arXiv 2412.06464) on any mix of sequences.

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
from typing import Any

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
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + NORM_EPS)


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
        mixed: (T, C): [q | k | v] of each token, C = 2 n_k dk + n_v dv.
        beta_alpha: (T, 2 n_v): b, then a.
        conv_weight: (C, taps), the last tap on the token itself.
        decay, dt_bias: (n_v,); decay is -exp(A_log).
        history: (S, taps - 1, C), the oldest first.
        states: (S, n_v, dk, dv).
        positions: (T,); -1 for a padding token.
        starts: (R + 1,): tokens starts[r]..starts[r + 1] - 1 are of sequence r; those from starts[R] on are padding.
        slots: (R,), of each sequence.

    >>> one = np.ones(1, np.float32)
    >>> index = [np.array(a, np.int32) for a in ([0], [0, 1], [0])]
    >>> caches = np.full((1, 1, 3), np.nan), np.full((1, 1, 1, 1), np.nan)
    >>> delta_net(np.ones((1, 3)), np.zeros((1, 2)), np.ones((3, 2)), -one, one, *caches, *index).y.round(3).tolist()
    [[0.366]]
    """
    history, after = history.copy(), states.astype(np.float64)
    heads, dk, dv = states.shape[1:]
    y, taps = np.zeros((len(mixed), heads * dv)), conv_weight.shape[1]
    weight: Any = conv_weight.astype(np.float64).T
    with np.errstate(all="ignore"):
        b, a = np.split(beta_alpha.astype(np.float64), 2, 1)
        g, beta = np.exp(decay * softplus(a + dt_bias)), sigmoid(b)
        for r, slot in enumerate(slots):
            tokens = [t for t in range(starts[r], starts[r + 1]) if positions[t] >= 0]
            if tokens and positions[tokens[0]] == 0:
                history[slot], after[slot] = 0, 0
            for t in tokens:
                window = np.concatenate((history[slot], mixed[t : t + 1]))
                x = (weight * window.astype(np.float64)).sum(0)
                parts = heads_of(x / (1 + np.exp(-x)), heads, dk, dv)
                after[slot], row = advance(after[slot], *parts, g[t], beta[t])
                y[t], history[slot] = row.ravel(), window[-(taps - 1) :]
    return Recurred(y, history, after)
