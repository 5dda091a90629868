"""The order of K: where the inputs of packed bytes lie in a row of x, of codes or of a float weight."""

import triton
import triton.language as tl


@triton.jit
def place_of(k, B, CHUNKS: tl.constexpr):
    """Return where input k lies in a row of codes: at k, or in the order of chunks of CHUNKS bytes of rows of B.

    That is 4 CHUNKS c + CHUNKS s + j for k = s B + CHUNKS c + j, written so that only k itself is divided.
    """
    return k // CHUNKS * (4 * CHUNKS) + k // B * (CHUNKS - 4 * B) + k % CHUNKS if CHUNKS else k


@triton.jit
def inputs_of(BYTES: tl.constexpr, CHUNK: tl.constexpr, B, NATURAL: tl.constexpr):
    """Return where the inputs of joined planes lie in a row of x, from the first byte's on; B is the bytes of a row.

    Only whole ranges are divided: Triton follows runs of neighbours through no other division.
    """
    place = tl.arange(0, 4 * BYTES)
    if NATURAL:
        run, chunk = place // CHUNK, place // (4 * CHUNK)
        place = (run - 4 * chunk) * B + chunk * CHUNK + place % CHUNK
    return place


@triton.jit
def first_input(tile, BYTES: tl.constexpr, CHUNK: tl.constexpr):
    """Return the input at the lowest bits of a tile's first byte, in a row of i2/chunks, or of i2/planes if CHUNK is 0.

    Written so that the compiler sees its divisors: it follows no remainder of the byte's own number.
    """
    if CHUNK > BYTES:
        PARTS: tl.constexpr = CHUNK // BYTES
        first = tile // PARTS * (4 * CHUNK) + tile % PARTS * BYTES
    else:
        first = tile * BYTES * (4 if CHUNK else 1)
    return first


@triton.jit
def lowest_inputs(BYTES: tl.constexpr, CHUNK: tl.constexpr):
    """Return the input at the lowest bits of every byte of a tile, from the first byte's on."""
    byte = tl.arange(0, BYTES)
    return byte // CHUNK * (4 * CHUNK) + byte % CHUNK if CHUNK else byte
