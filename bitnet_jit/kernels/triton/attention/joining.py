"""Join the pieces that split.py left in scratch memory, one after the other; a program has a head of a token."""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import PAGE, fades, joined
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait


@triton.jit(do_not_specialize=["R", "M"])
def join_kernel(
    maxima_ptr,  # (T, HEADS, M) float32
    totals_ptr,  # (T, HEADS, M) float32
    sums_ptr,  # (T, HEADS, M, HEAD_DIM) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    y_ptr,  # (T, HEADS HEAD_DIM)
    R,
    M,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    UNROLLED: tl.constexpr,  # pieces whose results are on their way together
    PDL: tl.constexpr,
):
    token, row = tl.program_id(0) // HEADS, tl.program_id(0).to(tl.int64)
    position = tl.load(positions_ptr + token)
    position = tl.where(token < tl.load(starts_ptr + R), position, -1)
    gdc_wait(PDL)
    gdc_launch_dependents(PDL)  # behind the wait: so what begins next finds this call's keys and values written
    d, one = tl.arange(0, BLOCK_DIM)[None, :], tl.arange(0, 1)
    largest = tl.full((1,), float("-inf"), tl.float32)
    l = tl.zeros((1,), tl.float32)  # noqa: E741
    acc = tl.zeros((1, BLOCK_DIM), tl.float32)
    pieces = (position + PAGE) // PAGE
    for begin in tl.range(0, pieces, UNROLLED, num_stages=1):
        ms, ls, accs = (), (), ()
        for n in tl.static_range(UNROLLED):
            there = begin + n < pieces
            place = row * M + begin + n
            ms = ms + (tl.load(maxima_ptr + place + one, mask=there & (one >= 0), other=float("-inf")),)
            ls = ls + (tl.load(totals_ptr + place + one, mask=there & (one >= 0), other=0.0),)
            accs = accs + (tl.load(sums_ptr + place * HEAD_DIM + d, mask=there & (d < HEAD_DIM), other=0.0),)
        for n in tl.static_range(UNROLLED):
            larger, old, new = fades(largest, ms[n])
            there = begin + n < pieces
            largest = tl.where(there, larger, largest)
            l = tl.where(there, joined(l, ls[n], old, new), l)  # noqa: E741
            acc = tl.where(there, joined(acc, accs[n], old[:, None], new[:, None]), acc)
    l = tl.where(position >= 0, l, 1.0)  # noqa: E741
    y = tl.div_rn(acc, l[:, None] + tl.zeros_like(acc))
    tl.store(y_ptr + row * HEAD_DIM + d, y.to(y_ptr.dtype.element_ty), mask=d < HEAD_DIM)
