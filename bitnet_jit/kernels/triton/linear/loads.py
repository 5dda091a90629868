"""Loads of packed weights and x that the kernels on the matrix units share."""

import triton
import triton.language as tl


@triton.jit
def prefetch(row_ptrs, num_bytes):
    """Fetch rows of num_bytes into the second cache; addresses and num_bytes are multiples of 16. sm_90."""
    sizes = tl.zeros(row_ptrs.shape, tl.int32) + num_bytes
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; // $0",
        "=r,l,r",
        [row_ptrs, sizes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def load_step(
    w_ptrs, x_ptrs, packed_byte, inputs, x_inside, start, B, X_STRIDE, X_STEP: tl.constexpr, WHOLE: tl.constexpr
):
    """Load the packed bytes and the x of one step of K, which begins at byte `start`; 0 behind the end of a row.

    x_inside says which rows of x there are; None: all.
    """
    if WHOLE:
        packed = tl.load(w_ptrs)
        x = tl.load(x_ptrs) if x_inside is None else tl.load(x_ptrs, mask=x_inside, other=0)
    else:
        packed = tl.load(w_ptrs, mask=packed_byte < B - start, other=0)
        inside = inputs < X_STRIDE - start * X_STEP
        x = tl.load(x_ptrs, mask=inside if x_inside is None else x_inside & inside, other=0)
    return packed, x
