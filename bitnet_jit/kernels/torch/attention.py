"""`paged_attention` in plain torch operations: slow, and the same bits for a token whatever else is in its call.

Products of torch are of an order that depends on shapes, and so are its sums. Here sums over d and over the keys of a
page are chains of operations on whole tensors, and exp is made of such, too. Sums of codes of an int8 cache are whole
numbers below 2^24: exact in float32 in any order.
"""

from dataclasses import dataclass

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import EPS, PAGE, WEIGHT_STEPS, Problem

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


@dataclass(frozen=True)
class Pages:
    """N pages of one sequence, or all pages.

    Attributes:
        keys: (N, KV, D, PAGE).
        values: (N, KV, PAGE, D).
        key_scale, value_scale: (N, KV, PAGE) beside codes of int8, else None.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scale: torch.Tensor | None
    value_scale: torch.Tensor | None

    def of(self, table: torch.Tensor) -> "Pages":
        """Return the pages of a table."""
        scales = (None if scale is None else scale[table] for scale in (self.key_scale, self.value_scale))
        return Pages(self.keys[table], self.values[table], *scales)


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize x (..., D) float32 by its absolute maximum: whole numbers in float32 (..., D), and scales (...)."""
    absmax = x.abs().amax(-1)
    bad = ~torch.isfinite(absmax)
    absmax = torch.where(bad, 1.0, absmax.clamp(min=EPS))
    # a division by a float32 tensor: torch turns division by a Python number into a product on some devices
    steps = torch.full_like(absmax, 127)
    codes = (torch.where(bad[..., None], 0.0, x) * (steps / absmax)[..., None]).round()
    return codes, torch.where(bad, torch.nan, absmax / steps)


def score(q: torch.Tensor, pages: Pages) -> torch.Tensor:
    """Return the scores (T, KV, G, N * PAGE) of q (T, KV, G, D)."""
    k, scale = pages_of(pages.keys, 3), q.shape[-1] ** -0.5  # (KV, D, N * PAGE)
    if pages.key_scale is not None:
        codes, q_scale = quantize(q)
        factors = (q_scale * scale)[..., None]
        return torch.einsum("tkgd,kdp->tkgp", codes, k) * factors * pages_of(pages.key_scale, 2)[:, None]
    q = q * scale
    scores = q.new_zeros(*q.shape[:3], k.shape[-1])
    for d in range(q.shape[-1]):
        scores = scores + q[..., d, None] * k[:, None, d]
    return scores


def weigh(p: torch.Tensor, visible: torch.Tensor, pages: Pages) -> torch.Tensor:
    """Return the sums (T, KV, G, N, D) of values by weights p (T, KV, G, N, PAGE), of positions that are visible."""
    v = pages.values.float().permute(1, 2, 0, 3)  # (KV, PAGE, N, D)
    if pages.value_scale is not None:
        return weigh_codes(torch.where(visible, p * pages.value_scale.movedim(0, 1)[:, None], 0.0), v)
    acc = p.new_zeros(*p.shape[:-1], v.shape[-1])
    for s in range(PAGE):
        acc = acc + torch.where(visible[..., s, None], p[..., s, None] * v[:, s][:, None], 0.0)
    return acc


def weigh_codes(w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the sums (T, KV, G, N, D) of codes v (KV, PAGE, N, D) by weights w, in two digits of seven bits."""
    largest = w.amax(-1)  # (T, KV, G, N)
    steps = torch.full_like(largest, WEIGHT_STEPS)
    whole = (w * (steps / largest)[..., None]).round()
    upper = (whole / 128).floor()
    sums = [torch.einsum("tkgns,ksnd->tkgnd", digit, v).nan_to_num() for digit in (upper, whole - 128 * upper)]
    total = (128 * sums[0].to(torch.int32) + sums[1].to(torch.int32)).float()
    return total * (largest / steps)[..., None]


def attend(q: torch.Tensor, pages: Pages, positions: torch.Tensor) -> torch.Tensor:
    """Attend from q (T, KV, G, D), rotated, at `positions` (T,) to the pages of a sequence; return (T, KV, G, D)."""
    count = len(pages.keys)
    visible = torch.arange(count * PAGE, device=q.device) <= positions[:, None]
    visible = visible[:, None, None].unflatten(-1, (count, PAGE))  # (T, 1, 1, N, PAGE)
    scores = torch.where(visible, score(q, pages).unflatten(-1, (count, PAGE)), -torch.inf)
    maxima = scores.amax(-1)  # (T, KV, G, N)
    p = torch.where(visible, exp(scores - maxima[..., None]), 0.0)
    sums = torch.zeros_like(maxima)
    for s in range(PAGE):
        sums = sums + p[..., s]
    return join(maxima, sums, weigh(p, visible, pages), positions)


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
def write(cache: Pages, k, v, positions, pages) -> None:
    """Write k and v (T, KV, D) of tokens at `positions` (T,) into their pages (T,)."""
    slots = positions % PAGE
    if cache.key_scale is not None and cache.value_scale is not None:
        (k, cache.key_scale[pages, :, slots]), (v, cache.value_scale[pages, :, slots]) = quantize(k), quantize(v)
    cache.keys[pages, :, :, slots] = k.to(cache.keys.dtype)
    cache.values[pages, :, slots] = v.to(cache.values.dtype)


def attend_in_chunks(q, pages: Pages, positions) -> torch.Tensor:
    """Attend as `attend` does, with so many tokens at a time that memory is bounded."""
    per_token = len(pages.keys) * q.shape[1] * q.shape[2] * max(PAGE, q.shape[3])
    chunk = max(1, CHUNK_ELEMENTS // per_token)
    parts = zip(q.split(chunk), positions.split(chunk), strict=True)
    return torch.cat([attend(part, pages, where) for part, where in parts])


def bind_paged_attention(problem: Problem, config: Config):
    heads, kv_heads, head_dim = problem.heads, problem.kv_heads, problem.head_dim

    def run(qkv, keys, values, rotary, positions, starts, tables, key_scale, value_scale) -> torch.Tensor:
        y = qkv.new_zeros(len(qkv), heads, head_dim)
        bounds, cache = starts.tolist(), Pages(keys, values, key_scale, value_scale)
        parts = []
        for r, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            tokens = start + torch.nonzero(positions[start:end] >= 0).flatten()
            if not len(tokens):
                continue
            where = positions[tokens].long()
            q, k, v = qkv[tokens].float().unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), 1)
            table = tables[r, : int(where[-1]) // PAGE + 1].long()
            write(cache, rotate(k, rotary[where]), v, where, table[where // PAGE])
            parts.append((tokens, rotate(q, rotary[where]).unflatten(1, (kv_heads, -1)), table, where))
        for tokens, q, table, where in parts:  # when all of them are written
            y[tokens] = attend_in_chunks(q, cache.of(table), where).flatten(1, 2).to(y.dtype)
        return y.flatten(1)

    return run


def always(problem: Problem) -> str | None:
    return None


def no_configs(problem: Problem) -> tuple[Config, ...]:
    return (None,)


KERNELS = (Kernel("torch.paged_attention", "paged_attention", bind_paged_attention, no_configs, always),)
