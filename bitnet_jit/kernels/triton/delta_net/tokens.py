"""Where tokens and those before them are: in a call, or in the history of their sequence's slot.

Tokens of a sequence have positions that follow one another, with padding anywhere between them. Grids depend on shapes
alone, so all of this is looked up on the device.
"""

import triton
import triton.language as tl

SEQUENCES = tl.constexpr(128)  # looked at together: one kernel serves calls of any number of them


@triton.jit
def sequence_of(starts_ptr, token, R):
    """Return the sequence of a token; R where it is behind the last one."""
    sequence = tl.zeros((), tl.int32)
    for first in range(0, R, SEQUENCES):
        r = first + tl.arange(0, SEQUENCES)
        end = tl.load(starts_ptr + r + 1, mask=r < R, other=2147483647)
        sequence += tl.sum((end <= token).to(tl.int32), axis=0)
    return sequence


@triton.jit
def before(positions_ptr, token, start):
    """Return the last token before a token that is not padding; one before `start` if none is from there on."""
    token -= 1
    while tl.load(positions_ptr + token, mask=token >= start, other=0) < 0:
        token -= 1
    return token


@triton.jit
def tokens_before(positions_ptr, token, start, TAPS: tl.constexpr):
    """Return the TAPS - 1 tokens before a token, the nearest first, and how many of them are from `start` on."""
    first = before(positions_ptr, token, start)
    second, third = start - 1, start - 1
    if TAPS > 2:
        second = before(positions_ptr, first, start)
    if TAPS > 3:
        third = before(positions_ptr, second, start)
    count = (first >= start).to(tl.int32) + (second >= start).to(tl.int32) + (third >= start).to(tl.int32)
    return first, second, third, count


@triton.jit
def load_before(
    mixed_ptrs, row_stride, history_ptrs, token, start, missing, there, C: tl.constexpr, TAPS: tl.constexpr
):
    """Load columns of a token from `start` on, else of the `missing`-th one before those, which the history has.

    Pointers are to columns of token 0, and of a slot's oldest row; `missing` is 0 where zeros came before.
    """
    here, kept = token >= start, (TAPS - 1 - missing) * C
    row = tl.load(mixed_ptrs + token.to(tl.int64) * row_stride, mask=there & here, other=0.0)
    old = tl.load(history_ptrs + kept, mask=there & (token < start) & (missing > 0), other=0.0)
    return tl.where(here, row, old)
