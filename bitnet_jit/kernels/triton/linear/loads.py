"""Loads of packed weights and x, and which tile a program has, as the linear kernels share them."""

import triton
import triton.language as tl

NORMAL = tl.constexpr("")  # eviction; Triton takes no plain string as a default before 3.7


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
def load_inside(ptrs, inside, WHOLE: tl.constexpr, POLICY: tl.constexpr = NORMAL):
    """Load what is inside, else 0; where all of it is, the mask is not looked at."""
    if WHOLE:
        values = tl.load(ptrs, eviction_policy=POLICY)
    else:
        values = tl.load(ptrs, mask=inside, other=0, eviction_policy=POLICY)
    return values


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


@triton.jit
def tile_of_program(program, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Return the first row and output of a program's tile: GROUP tiles of rows at a time share weights."""
    m_tiles, n_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    in_group = GROUP * n_tiles
    first = program // in_group * GROUP
    height = tl.minimum(m_tiles - first, GROUP)
    return (first + program % in_group % height) * BLOCK_M, program % in_group // height * BLOCK_N
