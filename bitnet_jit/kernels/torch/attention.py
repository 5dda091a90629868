"""`paged_attention` in plain torch operations: slow, and the same bits for a token whatever else is in its call.

Products of torch are of an order that depends on shapes, and so are its sums. Here sums over d and over the keys of a
page are chains of operations on whole tensors, and exp is made of such, too.
"""

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import PAGE, Problem

CHUNK_ELEMENTS = 2**24  # of scores and of products that are held at once
LOG2_E, LN_2 = 1.44269504, (0.693359375, -2.12194440e-4)  # the second in two parts, the first of which has few bits
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def exp(x: torch.Tensor) -> torch.Tensor:
    """Compute exp of float32 cut off at -87 and 88, as the Cephes library does; torch's own depends on the place."""
    x = x.clamp(-87.0, 88.0)
    power = (x * LOG2_E).round()
    rest = x - power * LN_2[0]
    rest = rest - power * LN_2[1]
    value = torch.full_like(x, EXP[0])
    for factor in EXP[1:]:
        value = value * rest
        value = value + factor
    value = value * rest
    value = value * rest
    value = value + rest + 1.0
    exponent = torch.where(power.isnan(), 0.0, power).to(torch.int32) + 127
    return value * (exponent << 23).view(torch.float32)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate heads x (T, heads, D) float32 by the cosines and sines (T, D) of their positions."""
    (x1, x2), (cos, sin) = x.chunk(2, -1), table[:, None].chunk(2, -1)
    a, b, c, d = x1 * cos, x2 * sin, x2 * cos, x1 * sin
    return torch.cat((a - b, c + d), -1)


def pages_of(pages: torch.Tensor, dim: int) -> torch.Tensor:
    """Return pages (N, KV, ...) as one run of positions along a dimension, float32 (KV, ..., N * PAGE, ...)."""
    return pages.float().movedim(0, dim - 1).flatten(dim - 1, dim)


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Attend from q (T, KV, G, D) at `positions` (T,) to pages (N, KV, D, PAGE) and (N, KV, PAGE, D) of a sequence."""
    pages, _, head_dim, _ = keys.shape
    k = pages_of(keys, 3)  # (KV, D, N * PAGE)
    scores = q.new_zeros(*q.shape[:3], pages * PAGE)
    for d in range(head_dim):
        scores = scores + q[..., d, None] * k[:, None, d]
    visible = torch.arange(pages * PAGE, device=q.device) <= positions[:, None]
    visible = visible[:, None, None].unflatten(-1, (pages, PAGE))  # (T, 1, 1, N, PAGE)
    scores = torch.where(visible, scores.unflatten(-1, (pages, PAGE)), -torch.inf)
    maxima = scores.amax(-1)  # (T, KV, G, N)
    p = torch.where(visible, exp(scores - maxima[..., None]), 0.0)
    v = values.float().permute(1, 2, 0, 3)  # (KV, PAGE, N, D)
    sums, acc = torch.zeros_like(maxima), q.new_zeros(*maxima.shape, head_dim)
    for s in range(PAGE):
        sums = sums + p[..., s]
        acc = acc + torch.where(visible[..., s, None], p[..., s, None] * v[:, s][:, None], 0.0)
    return join(maxima, sums, acc, positions)


def join(maxima: torch.Tensor, sums: torch.Tensor, acc: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Join the results of pages (T, KV, G, N) and (T, KV, G, N, D), one after the other; return (T, KV, G, D)."""
    largest, total, y = maxima[..., 0], sums[..., 0], acc[..., 0, :]
    for n in range(1, maxima.shape[-1]):
        here = (positions >= n * PAGE)[:, None, None]
        larger = torch.maximum(largest, maxima[..., n])
        old, new = exp(largest - larger), exp(maxima[..., n] - larger)
        total_old, total_new = total * old, sums[..., n] * new
        y_old, y_new = y * old[..., None], acc[..., n, :] * new[..., None]
        largest = torch.where(here, larger, largest)
        total = torch.where(here, total_old + total_new, total)
        y = torch.where(here[..., None], y_old + y_new, y)
    return y / total[..., None]


@torch.inference_mode()
def write(keys, values, k, v, positions, pages) -> None:
    """Write k and v (T, KV, D) of tokens at `positions` (T,) into their pages (T,)."""
    keys[pages, :, :, positions % PAGE] = k.to(keys.dtype)
    values[pages, :, positions % PAGE] = v.to(values.dtype)


def attend_in_chunks(q, keys, values, positions) -> torch.Tensor:
    """Attend as `attend` does, with so many tokens at a time that memory is bounded."""
    per_token = keys.shape[0] * q.shape[1] * q.shape[2] * max(PAGE, q.shape[3])
    chunk = max(1, CHUNK_ELEMENTS // per_token)
    parts = zip(q.split(chunk), positions.split(chunk), strict=True)
    return torch.cat([attend(part, keys, values, where) for part, where in parts])


def bind_paged_attention(problem: Problem, config: Config):
    heads, kv_heads, head_dim = problem.heads, problem.kv_heads, problem.head_dim

    def run(qkv, keys, values, rotary, positions, starts, tables) -> torch.Tensor:
        y = qkv.new_zeros(len(qkv), heads, head_dim)
        bounds = starts.tolist()
        parts = []
        for r, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            tokens = start + torch.nonzero(positions[start:end] >= 0).flatten()
            if not len(tokens):
                continue
            where = positions[tokens].long()
            q, k, v = qkv[tokens].float().unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), 1)
            table = tables[r, : int(where[-1]) // PAGE + 1].long()
            write(keys, values, rotate(k, rotary[where]), v, where, table[where // PAGE])
            q = rotate(q, rotary[where]) * head_dim**-0.5
            parts.append((tokens, q.unflatten(1, (kv_heads, -1)), table, where))
        for tokens, q, table, where in parts:  # when all of them are written
            y[tokens] = attend_in_chunks(q, keys[table], values[table], where).flatten(1, 2).to(y.dtype)
        return y.flatten(1)

    return run


def always(problem: Problem) -> str | None:
    return None


def no_configs(problem: Problem) -> tuple[Config, ...]:
    return (None,)


KERNELS = (Kernel("torch.paged_attention", "paged_attention", bind_paged_attention, no_configs, always),)
