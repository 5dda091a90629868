"""The layouts of Numba kernels for packed weights: 64 outputs by a step of K (16 or 20 inputs) take 256 bytes.

    i2/n64k16   (ceil(N / 64), ceil(K / 16), 4, 64) uint8
    t5/n64k20   (ceil(N / 64), ceil(K / 20), 4, 64) uint8

`decode.py` has the order inside a step. Missing outputs and inputs hold the code 1, weight 0. A canonical row has the
same codes of a step in the same four bytes, so re-laying shuffles digits within 32-bit words, then transposes words.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from bitnet_jit.kernels.numba.intrinsics.decode import LATE, LATE_NUMBERS
from bitnet_jit.kernels.numba.intrinsics.word_tiles import BLOCK as BLOCK
from bitnet_jit.kernels.numba.intrinsics.word_tiles import STEP_BYTES as STEP_BYTES
from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.format import Array, Format, array_module, device_of
from bitnet_jit.packing.i2 import transposed
from bitnet_jit.packing.layout import Layout

PIECE_BYTES = 2**20  # of a weight, laid at a time: what is computed on the way stays small
WORDS = 4  # bytes of a canonical row in one step of K


def tiles_shape(format: Format, out_features: int, in_features: int) -> tuple[int, ...]:
    """Return the shape of a weight in this layout."""
    return -(-out_features // BLOCK), -(-in_features // (WORDS * format.codes_per_byte)), 4, 64


def from_canonical(
    format: Format, shuffle: Callable[[Array], Array], packed: Array, out_features: int, in_features: int
) -> Array:
    """Lay canonical uint8 (N, ceil(K / codes_per_byte)) out in tiles, uint8, piece by piece."""
    blocks, steps, *_ = shape = tiles_shape(format, out_features, in_features)
    tiles = array_module(packed).empty(shape, dtype=packed.dtype, **device_of(packed))
    at_once = max(1, PIECE_BYTES // (steps * STEP_BYTES))
    for first in range(0, blocks, at_once):
        rows = packed[first * BLOCK : (first + at_once) * BLOCK]
        tiles[first : first + at_once] = tiles_of(format, shuffle, rows, in_features)
    return tiles


def tiles_of(format: Format, shuffle: Callable[[Array], Array], packed: Array, in_features: int) -> Array:
    """Return the tiles of some canonical rows."""
    xp, out_features = array_module(packed), len(packed)
    blocks, steps, *_ = tiles_shape(format, out_features, in_features)
    zeros = int(format.join([1] * format.codes_per_byte))  # a byte of weights 0
    padded = xp.full((blocks * BLOCK, steps * WORDS), zeros, dtype=xp.uint8, **device_of(packed))
    padded[:out_features, : packed.shape[1]] = packed
    tail = in_features % format.codes_per_byte
    if tail:  # canonical rows may end in any digits: here they are always 1
        last = [digit[:, None] for digit in format.digits(packed[:, -1])]
        last[tail:] = [last[0] * 0 + 1] * (format.codes_per_byte - tail)
        padded[:out_features, packed.shape[1] - 1] = format.join(last)[:, 0]
    words = shuffle(padded).view(xp.int32).reshape(blocks, BLOCK, steps).swapaxes(1, 2)
    return compact(words).reshape(-1).view(xp.uint8).reshape(blocks, steps, 4, 64)


def to_canonical(
    format: Format, unshuffle: Callable[[Array], Array], tiles: Array, out_features: int, in_features: int
) -> Array:
    """Undo `from_canonical`."""
    xp = array_module(tiles)
    blocks, steps, *_ = tiles.shape
    words = aligned(tiles).reshape(blocks, steps, 256).view(xp.int32).swapaxes(1, 2)
    packed = unshuffle(compact(words).reshape(-1).view(xp.uint8).reshape(blocks * BLOCK, steps * WORDS))
    rows, columns = format.packed_shape(out_features, in_features)
    return compact(packed[:rows, :columns])


def compact(array: Array) -> Array:
    """Return the same array, contiguous."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def aligned(array: Array) -> Array:
    """Return the same bytes, contiguous, where they can be viewed as words: torch wants an offset of whole words."""
    array = compact(array)
    return array if isinstance(array, np.ndarray) or array.storage_offset() % 4 == 0 else array.clone()


def transpose_i2(packed: Array) -> Array:
    """Transpose each 32-bit word as 4 x 4 fields of two bits, in two swaps; its own inverse."""
    xp = array_module(packed)
    return transposed(packed.view(xp.int32)).view(xp.uint8)


def transpose_t5(packed: Array) -> Array:
    """Turn canonical bytes (k = 5 b + digit) into bytes of a step (k = 4 digit + kk), which `decode.py` reads."""
    xp = array_module(packed)
    codes = xp.stack(FORMATS["t5"].digits(packed), -1).reshape(packed.shape[0], -1, 5, 4)
    t0, t1, t2, t3, t4 = (codes[:, :, digit] for digit in range(5))
    number = t0 * 27 + t1 * 9 + t2 * 3 + t3
    late_bytes = number - 64 + LATE + t4 * LATE_NUMBERS
    return xp.where(number < 64, number + t4 * 64, late_bytes).reshape(packed.shape)


def untranspose_t5(tiles: Array) -> Array:
    """Undo `transpose_t5`."""
    xp = array_module(tiles)
    late = tiles >= LATE
    t4 = xp.where(late, (tiles - LATE) // LATE_NUMBERS, tiles // 64)
    number = xp.where(late, 64 + (tiles - LATE) % LATE_NUMBERS, tiles % 64)
    digits = [number // 27, number // 9 % 3, number // 3 % 3, number % 3, t4]
    codes = xp.stack([digit.reshape(tiles.shape[0], -1, 4) for digit in digits], 2).reshape(*tiles.shape, 5)
    return FORMATS["t5"].join([codes[:, :, digit] for digit in range(5)])


def tiles_layout(name: str, format: Format, shuffle: Callable, unshuffle: Callable) -> Layout:
    """Return the layout of a format in tiles, by how the codes of a step change their places."""
    return Layout(
        name,
        format,
        partial(tiles_shape, format),
        partial(from_canonical, format, shuffle),
        partial(to_canonical, format, unshuffle),
    )


I2_TILES = tiles_layout("i2/n64k16", FORMATS["i2"], transpose_i2, transpose_i2)
T5_TILES = tiles_layout("t5/n64k20", FORMATS["t5"], transpose_t5, untranspose_t5)
LAYOUTS = (I2_TILES, T5_TILES)
INPUTS_OF_LAYOUT = {layout.name: WORDS * layout.format.codes_per_byte for layout in LAYOUTS}
