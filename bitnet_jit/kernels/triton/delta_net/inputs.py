"""What tokens bring to the recurrence, all of them side by side: q, k and v behind the convolution, and gates.

    x = silu(sum of conv_weight[:, j] * mixed[token - (TAPS - 1) + j]), from the oldest token on
    q, k = x * rsqrt(sum x^2 + 1e-6), q times D^-0.5;  product = q k

A program has one token, and some heads of q and k, or some numbers of v, or the gates of all heads. Padding has zeros,
g = 1 and the beta PADDING, which no sigmoid is; its y is written here.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.delta_net.gates import exp, sigmoid, softplus
from bitnet_jit.kernels.triton.delta_net.tokens import load_before, sequence_of, tokens_before
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait

NORM_EPS = tl.constexpr(1e-6)
PADDING = tl.constexpr(-1.0)  # beta of padding


@triton.jit
def convolved(
    mixed_ptr, row_stride, weight_ptr, history_ptr, positions_ptr, token, start, column, there,
    C: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Return silu of the convolution of some columns of a token; history_ptr is to the rows of its slot."""
    mixed_ptrs, history_ptrs, weight_ptrs = mixed_ptr + column, history_ptr + column, weight_ptr + column * TAPS
    first, second, third, count = tokens_before(positions_ptr, token, start, TAPS)
    missing = tl.where(tl.load(positions_ptr + token) == count, 0, TAPS - 1 - count)  # 0 where the sequence begins
    x = tl.zeros(there.shape, tl.float32)
    for tap in tl.static_range(TAPS):
        row_of = token
        if tap == TAPS - 2:
            row_of = first
        if tap == TAPS - 3:
            row_of = second
        if tap == TAPS - 4:
            row_of = third
        behind = tl.maximum(missing - tap, 0)
        row = load_before(mixed_ptrs, row_stride, history_ptrs, row_of, start, behind, there, C, TAPS)
        x = tl.fma(tl.load(weight_ptrs + tap, mask=there, other=0.0), row.to(tl.float32), x)
    return tl.div_rn(x, 1.0 + exp(-x))


@triton.jit
def normalized(x):
    """Return heads x (heads, columns) divided by their lengths."""
    lengths = tl.sqrt_rn(tl.sum(x * x, axis=1) + NORM_EPS)
    return tl.div_rn(x, lengths[:, None] + tl.zeros_like(x))


@triton.jit(do_not_specialize=["row_stride", "R"])
def inputs_kernel(
    mixed_ptr,  # (T, C) float, rows row_stride apart
    row_stride,
    beta_alpha_ptr,  # (T, 2 HEADS) float32
    weight_ptr,  # (C, TAPS) float32
    decay_ptr,  # (HEADS,) float32
    bias_ptr,  # (HEADS,) float32
    history_ptr,  # (S, TAPS - 1, C) float
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    slots_ptr,  # (R,) int32
    q_ptr,  # (T, KV, BLOCK_D) float32, as k
    k_ptr,
    v_ptr,  # (T, N) float32
    products_ptr,  # (T, KV) float32
    gates_ptr,  # (T, 2, HEADS) float32: g, beta
    y_ptr,  # (T, N) float
    R,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    TAPS: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_KV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    PDL: tl.constexpr,
):
    KEY_PARTS: tl.constexpr = (KV + BLOCK_KV - 1) // BLOCK_KV
    VALUE_PARTS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    C: tl.constexpr = 2 * KV * D + N
    gdc_launch_dependents(PDL)
    token, part = tl.program_id(0) // (KEY_PARTS + VALUE_PARTS + 1), tl.program_id(0) % (KEY_PARTS + VALUE_PARTS + 1)
    gdc_wait(PDL)
    sequence = sequence_of(starts_ptr, token, R)
    there = (tl.load(positions_ptr + token) >= 0) & (sequence < R)
    start = tl.where(there, tl.load(starts_ptr + sequence), token)  # padding looks for no token before it
    slot = tl.load(slots_ptr + sequence, mask=there, other=0).to(tl.int64)
    history_ptr += slot * ((TAPS - 1) * C)
    at = token.to(tl.int64)
    if part < KEY_PARTS:
        head, d = part * BLOCK_KV + tl.arange(0, BLOCK_KV)[:, None], tl.arange(0, BLOCK_D)[None, :]
        column, inside = head * D + d, there & (head < KV) & (d < D)
        q = convolved(
            mixed_ptr, row_stride, weight_ptr, history_ptr, positions_ptr, token, start, column, inside, C, TAPS
        )
        column += KV * D
        k = convolved(
            mixed_ptr, row_stride, weight_ptr, history_ptr, positions_ptr, token, start, column, inside, C, TAPS
        )
        q, k, heads = normalized(q) * SCALE, normalized(k), part * BLOCK_KV + tl.arange(0, BLOCK_KV)
        place = (at * KV + head) * BLOCK_D + d
        tl.store(q_ptr + place, q, mask=place < (at + 1) * (KV * BLOCK_D))
        tl.store(k_ptr + place, k, mask=place < (at + 1) * (KV * BLOCK_D))
        tl.store(products_ptr + at * KV + heads, tl.sum(q * k, axis=1), mask=heads < KV)
    elif part < KEY_PARTS + VALUE_PARTS:
        n = (part - KEY_PARTS) * BLOCK_N + tl.arange(0, BLOCK_N)
        known = there & (n < N)
        v = convolved(
            mixed_ptr, row_stride, weight_ptr, history_ptr, positions_ptr, token, start, 2 * KV * D + n, known, C, TAPS
        )
        tl.store(v_ptr + at * N + n, v, mask=n < N)
        tl.store(y_ptr + at * N + n, tl.zeros((BLOCK_N,), y_ptr.dtype.element_ty), mask=(n < N) & (there == 0))
    else:
        h = tl.arange(0, BLOCK_HEADS)
        b = tl.load(beta_alpha_ptr + at * (2 * HEADS) + h, mask=h < HEADS, other=0.0)
        a = tl.load(beta_alpha_ptr + at * (2 * HEADS) + HEADS + h, mask=h < HEADS, other=0.0)
        a += tl.load(bias_ptr + h, mask=h < HEADS, other=0.0)
        g = exp(tl.load(decay_ptr + h, mask=h < HEADS, other=0.0) * softplus(a))
        tl.store(gates_ptr + at * (2 * HEADS) + h, tl.where(there, g, 1.0), mask=h < HEADS)
        beta = tl.where(there, sigmoid(b), PADDING)
        tl.store(gates_ptr + at * (2 * HEADS) + HEADS + h, beta, mask=h < HEADS)
