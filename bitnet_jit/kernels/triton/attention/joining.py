"""Join the pieces that split.py left in scratch memory, one after the other."""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import PAGE, fades, joined
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait

NUMBER = tl.constexpr(8)  # of pieces whose results are on their way together


@triton.jit
def join_some(
    largest, l, acc, first, counts, places, d, maxima_ptr, totals_ptr, sums_ptr,  # noqa: E741
    HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Join NUMBER pieces, from the first on, to the state of rows; each row has so many of all as its count."""
    ms, ls, accs = (), (), ()
    for n in tl.static_range(NUMBER):
        there, at = first + n < counts, places + first + n
        ms = ms + (tl.load(maxima_ptr + at, mask=there, other=float("-inf")),)
        ls = ls + (tl.load(totals_ptr + at, mask=there, other=0.0),)
        shown = there[:, None] & (d < HEAD_DIM)
        accs = accs + (tl.load(sums_ptr + (at * HEAD_DIM)[:, None] + d, mask=shown, other=0.0),)
    for n in tl.static_range(NUMBER):
        there = first + n < counts
        larger, old, new = fades(largest, ms[n])
        largest = tl.where(there, larger, largest)
        l = tl.where(there, joined(l, ls[n], old, new), l)  # noqa: E741
        acc = tl.where(there[:, None], joined(acc, accs[n], old[:, None], new[:, None]), acc)
    return largest, l, acc


@triton.jit
def join_pieces(counts, most, places, d, maxima_ptr, totals_ptr, sums_ptr, HEAD_DIM: tl.constexpr):
    """Join the pieces of rows: counts (ROWS,), `most` at most, from places (ROWS,) on -> columns d of y (ROWS, D).

    0 for rows without pieces.
    """
    largest = tl.where(counts >= 0, float("-inf"), 0.0)
    l = tl.where(counts >= 0, 0.0, 1.0)  # noqa: E741
    acc = tl.zeros((counts.shape[0], d.shape[1]), tl.float32)
    for first in tl.range(0, most, NUMBER, num_stages=1):
        largest, l, acc = join_some(  # noqa: E741
            largest, l, acc, first, counts, places, d, maxima_ptr, totals_ptr, sums_ptr, HEAD_DIM
        )
    l = tl.where(counts > 0, l, 1.0)  # noqa: E741
    return tl.div_rn(acc, l[:, None] + tl.zeros_like(acc))


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
    PDL: tl.constexpr,
):
    """Join the pieces of a head of a token, where no cluster of programs has done so."""
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    row = tl.program_id(0).to(tl.int64) + tl.zeros((1,), tl.int64)
    position = tl.load(positions_ptr + row // HEADS)
    counts = tl.where(row // HEADS < tl.load(starts_ptr + R), position + PAGE, 0) // PAGE
    d = tl.arange(0, BLOCK_DIM)[None, :]
    y = join_pieces(counts, tl.max(counts, axis=0), row * M, d, maxima_ptr, totals_ptr, sums_ptr, HEAD_DIM)
    tl.store(y_ptr + (row * HEAD_DIM)[:, None] + d, y.to(y_ptr.dtype.element_ty), mask=d < HEAD_DIM)
