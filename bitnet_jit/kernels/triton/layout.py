"""The layouts of packed weights for Triton kernels: bytes whose digits hold inputs a quarter or a fifth of a row apart.

    i2/planes   (N, B) uint8, B = 64 * ceil(K / 256); byte j holds at bits 2s, 2s + 1 the weight of input s * B + j
    i2/chunks   (N, B) uint8, the same by 256 inputs: byte 64 c + j holds the weights of inputs 256 c + 64 s + j
    t5/planes   (N, B) uint8, B = 64 * ceil(K / 320); byte j holds ceil(v * 256 / 243), where v has the codes w + 1 of
                inputs j, B + j, ..., 4 B + j as its digits in base 3, the highest first

A field of i2 is the weight itself in two's complement (-1 is 3): shifted to the top of its byte, it is 64 times the
weight as int8. So sums need no correction for an offset of the codes, and missing inputs are zero bits, whatever x
holds there. A byte of t5 gives its digits by multiplication: its product with 3 carries the first one out, and so on.

The matrix units want x in the order of chunks (see rowwise/rows.py). Where x is quantized for one product, its codes
are written so. In training they are kept for the gradients and shared by layers: there the weight is laid such that
their natural order is that of chunks.
"""

from typing import Any

import numpy as np

from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.format import Array, array_module, device_of
from bitnet_jit.packing.layout import Layout
from bitnet_jit.problem import Problem

I2, T5 = FORMATS["i2"], FORMATS["t5"]
CHUNK = 64  # bytes of a row that kernels take at a time; B is a multiple of it
ZEROS = 0x55  # four weights of 0 in canonical i2


def row_bytes(in_features: int, planes: int = 4) -> int:
    """Return B, the bytes of a row: its inputs, with padding, by the number of planes."""
    return CHUNK * -(-in_features // (planes * CHUNK))


def row_words(problem: Problem) -> int:
    """Return the words of four bytes in a row."""
    return row_bytes(problem.in_features, PLANES[problem.layout]) // 4


def padded_inputs(problem: Problem) -> int:
    """Return the inputs of a row with padding."""
    planes = PLANES[problem.layout]
    return planes * row_bytes(problem.in_features, planes)


def is_paired(problem: Problem) -> bool:
    """Return whether a row of i2 is pairs of chunks."""
    return row_bytes(problem.in_features) % (2 * CHUNK) == 0


def planes_of(codes: Array, planes: int, missing: int) -> list[Array]:
    """Cut (N, K) uint8 into arrays (N, B), one per plane, filled up with the code of a missing input."""
    xp = array_module(codes)
    out_features, in_features = codes.shape
    num_bytes = row_bytes(in_features, planes)
    padded = xp.full((out_features, planes * num_bytes), missing, dtype=xp.uint8, **device_of(codes))
    padded[:, :in_features] = codes
    return [padded[:, plane * num_bytes : (plane + 1) * num_bytes] for plane in range(planes)]


def joined(planes: list[Array], in_features: int) -> Array:
    """Join planes again: the inverse of `planes_of`."""
    return array_module(planes[0]).concatenate(planes, 1)[:, :in_features]


def i2_shape(out_features: int, in_features: int) -> tuple[int, int]:
    return out_features, row_bytes(in_features, 4)


def i2_from_canonical(packed: Array, out_features: int, in_features: int) -> Array:
    """Lay canonical uint8 (N, ceil(K / 4)) as i2/planes."""
    xp = array_module(packed)
    return I2.join(planes_of(I2.unpack(packed, in_features).view(xp.uint8) & 3, 4, missing=0))


def i2_to_canonical(laid: Array, out_features: int, in_features: int) -> Array:
    """Undo `i2_from_canonical`."""
    xp = array_module(laid)
    fields = joined(I2.digits(laid), in_features)
    return I2.pack_unchecked(((fields + 1) & 3).view(xp.int8) - 1)


def chunks_from_canonical(packed: Array, out_features: int, in_features: int) -> Array:
    """Lay canonical uint8 (N, ceil(K / 4)) as i2/chunks: i2/planes of rows of one chunk each."""
    shape = i2_shape(out_features, in_features)
    padded = array_module(packed).full(shape, ZEROS, dtype=packed.dtype, **device_of(packed))
    padded[:, : packed.shape[1]] = packed
    chunks = padded.reshape(-1, CHUNK)
    return i2_from_canonical(chunks, len(chunks), 4 * CHUNK).reshape(shape)


def chunks_to_canonical(laid: Array, out_features: int, in_features: int) -> Array:
    """Undo `chunks_from_canonical`."""
    chunks = laid.reshape(-1, CHUNK)
    padded = i2_to_canonical(chunks, len(chunks), 4 * CHUNK).reshape(laid.shape)
    return I2.pack_unchecked(I2.unpack_unchecked(padded, 4 * laid.shape[1])[:, :in_features])


def t5_shape(out_features: int, in_features: int) -> tuple[int, int]:
    return out_features, row_bytes(in_features, 5)


def t5_from_canonical(packed: Array, out_features: int, in_features: int) -> Array:
    """Lay canonical uint8 (N, ceil(K / 5)) as t5/planes."""
    xp = array_module(packed)
    planes = planes_of((T5.unpack(packed, in_features) + 1).view(xp.uint8), 5, missing=1)
    value = cast(T5.join(planes[::-1]), xp.int32)
    return cast((value * 256 + 242) // 243, xp.uint8)


def t5_to_canonical(laid: Array, out_features: int, in_features: int) -> Array:
    """Undo `t5_from_canonical`."""
    xp = array_module(laid)
    value = cast(cast(laid, xp.int32) * 243 // 256, xp.uint8)
    codes = joined(T5.digits(value)[::-1], in_features)
    return T5.pack_unchecked(codes.view(xp.int8) - 1)


def cast(values: Array, dtype: Any) -> Array:
    """Return values as another dtype of their library."""
    return values.astype(dtype) if array_module(values) is np else values.to(dtype)


I2_PLANES = Layout("i2/planes", I2, i2_shape, i2_from_canonical, i2_to_canonical)
T5_PLANES = Layout("t5/planes", T5, t5_shape, t5_from_canonical, t5_to_canonical)
I2_CHUNKS = Layout("i2/chunks", I2, i2_shape, chunks_from_canonical, chunks_to_canonical)
LAYOUTS = (I2_PLANES, T5_PLANES, I2_CHUNKS)
I2_LAYOUTS = (I2_PLANES.name, I2_CHUNKS.name)
PLANES = {I2_PLANES.name: 4, T5_PLANES.name: 5, I2_CHUNKS.name: 4}


def in_chunks(problem: Problem) -> bool:
    """Return whether the natural order of inputs is that of the weight's chunks."""
    return problem.layout == I2_CHUNKS.name


def order(problem: Problem) -> dict[str, int]:
    """Return the constants by which kernels find the inputs of a byte of i2: see `device/order.py`."""
    chunk = CHUNK if in_chunks(problem) else 0
    return {"APART": chunk or row_bytes(problem.in_features), "CHUNK": chunk}
