"""A row of x as a packed weight sees it, and sums over it in one order, whatever the number of threads.

A row is four planes of B inputs, as in the layout `i2/planes`, four inputs a word. A part of it is a tensor
(4, SIZE, 4) of plane, word and byte, so a thread that holds four neighbouring inputs makes the word to multiply by.

Each sum written here adds two numbers at a time, so its bits do not depend on how threads share a row: the kernel that
normalizes rows and the one that does so on its way to a product make the same codes.
"""

import triton
import triton.language as tl

MAX_PART = 1024  # words of a plane, as many as the registers of a program hold
MIN_PART = 32
LANES = tl.constexpr(256)
GELU_2U, GELU_CUBE = tl.constexpr(2 * (2 / 3.141592653589793) ** 0.5), tl.constexpr(0.044715)


def part_of(words: int) -> int:
    """Return the words of a plane that a program takes at a time, a power of two."""
    return min(MAX_PART, max(MIN_PART, int(triton.next_power_of_2(words))))


@triton.jit
def inputs_of_part(first, SIZE: tl.constexpr, WORDS):
    """Return the inputs (4, SIZE, 4) of words from `first` on, and which words there are (1, SIZE, 1)."""
    plane, byte = tl.arange(0, 4)[:, None, None], tl.arange(0, 4)[None, None, :]
    word = first + tl.arange(0, SIZE)[None, :, None]
    return plane * (4 * WORDS) + 4 * word + byte, word < WORDS


@triton.jit
def places_in_chunks(first, SIZE: tl.constexpr):
    """Return where those inputs lie in the order of chunks of 64 bytes: 256 c + 64 plane + j for byte 64 c + j."""
    plane, byte = tl.arange(0, 4)[:, None, None], tl.arange(0, 4)[None, None, :]
    word = first + tl.arange(0, SIZE)[None, :, None]
    return word // 16 * 256 + 64 * plane + word % 16 * 4 + byte


@triton.jit
def lanes_of(x, SIZE: tl.constexpr):
    """Add up (4, SIZE, 4), no number below 0 -> (LANES,): the inputs of a word, then planes and distant words."""
    x = tl.reshape(tl.sum(tl.sum(tl.reshape(x, (4, SIZE, 2, 2)), axis=3), axis=2), (4 * SIZE,))
    if 4 * SIZE < LANES:
        x = tl.reshape(tl.where(tl.arange(0, 2)[:, None] == 0, x[None, :], 0.0), (LANES,))
    for n in tl.static_range(4):
        if 4 * SIZE >> n > LANES:
            x = tl.sum(tl.reshape(x, (2, 2 * SIZE >> n)), axis=0)
    return x


@triton.jit
def sum_of_lanes(x):
    """Add up (LANES,), neighbours first."""
    for n in tl.static_range(5):
        x = tl.sum(tl.reshape(x, (LANES // 2 >> n, 2)), axis=1)
    even, odd = tl.split(tl.reshape(x, (4, 2)))  # from here on a thread has all that is left
    even, odd = tl.split(tl.reshape(even + odd, (2, 2)))
    return tl.sum(even + odd, axis=0)


@triton.jit
def largest_of(x, SIZE: tl.constexpr):
    """Return the largest of (4, SIZE, 4) int32."""
    x = tl.max(tl.reshape(tl.max(tl.max(x, axis=2), axis=0), (SIZE // 32, 32)), axis=1)
    for n in tl.static_range(5):
        if SIZE // 64 >> n:  # by one exchange between warps instead of two
            even, odd = tl.split(tl.reshape(x, (SIZE // 64 >> n, 2)))
            x = tl.maximum(even, odd)
    return tl.max(x, axis=0)


@triton.jit
def load_values(x_ptr, other_ptr, k, inside, KIND: tl.constexpr):
    """Load float32 values at inputs k of a row, 0 where not inside.

    KIND says of what: "x", or "add" of x and other, rounded to their dtype; "relu2", "silu", "sigmoid" or "gelu" of x,
    times other.
    """
    # outside a quotient of 0 would take a division's slow way, and with it all threads of its warp
    x = tl.load(x_ptr + k, mask=inside, other=1.0 if KIND == "silu" or KIND == "gelu" else 0.0)
    y = x.to(tl.float32)
    if KIND != "x":
        other = tl.load(other_ptr + k, mask=inside, other=0.0).to(tl.float32)
        if KIND == "add":
            y = (y + other).to(x.dtype).to(tl.float32)
        elif KIND == "silu":
            y = tl.div_rn(y, 1.0 + tl.exp(-y)) * other
        elif KIND == "gelu":
            power = GELU_2U * (y + GELU_CUBE * y * y * y)
            y = tl.div_rn(y, 1.0 + tl.exp(-power)) * other
        elif KIND == "sigmoid":
            y = tl.div_rn(tl.full(y.shape, 1.0, tl.float32), 1.0 + tl.exp(-y)) * other
        else:
            y = tl.where(y <= 0.0, 0.0, y)  # NaN stays
            y = y * y * other
    return y


@triton.jit
def norm_factor(total, eps, K: tl.constexpr):
    """Return 1 / sqrt(mean + eps) of a row's sum of squares, each step rounded."""
    mean = tl.div_rn(total, tl.full((), K, tl.float32))
    return tl.div_rn(tl.full((), 1.0, tl.float32), tl.sqrt_rn(mean + eps))
