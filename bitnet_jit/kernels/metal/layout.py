"""The layout in which Metal kernels read weights, invertible to the canonical one.

    i2/words    (N, 32 * ceil(K / 128)) uint8: canonical i2 with rows filled up to 128 inputs, by weights of 0

Four bytes are a word (little-endian) with the codes of sixteen inputs in a row, the first in its lowest two bits. It is
also how `mx.quantized_matmul` reads two-bit weights: with scales s and biases -s a code c counts s c - s. Where K is
a multiple of 128, as in every model that is known, it is the canonical layout to the byte.
"""

from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.format import Array, array_module, device_of
from bitnet_jit.packing.layout import Layout

I2 = FORMATS["i2"]
RUN = 128  # inputs to which rows are filled up
WORD = 16  # inputs of a word
ZEROS = 0x55  # four weights of 0


def padded_inputs(in_features: int) -> int:
    """Return the inputs of a row with padding.

    >>> [padded_inputs(k) for k in (1, 128, 2560)]
    [128, 128, 2560]
    """
    return RUN * -(-in_features // RUN)


def shape(out_features: int, in_features: int) -> tuple[int, int]:
    """Return the shape of a weight in this layout."""
    return out_features, padded_inputs(in_features) // I2.codes_per_byte


def from_canonical(packed: Array, out_features: int, in_features: int) -> Array:
    """Lay canonical uint8 (N, ceil(K / 4)) as i2/words; the same memory where nothing has to be filled up."""
    if in_features % RUN == 0:
        return packed
    xp = array_module(packed)
    laid = xp.full(shape(out_features, in_features), ZEROS, dtype=packed.dtype, **device_of(packed))
    laid[:, : packed.shape[1]] = packed
    return laid


def to_canonical(laid: Array, out_features: int, in_features: int) -> Array:
    """Undo `from_canonical`."""
    canonical = laid[:, : I2.packed_shape(out_features, in_features)[1]]
    return canonical if in_features % RUN == 0 else canonical + 0  # contiguous


I2_WORDS = Layout("i2/words", I2, shape, from_canonical, to_canonical)
LAYOUTS = (I2_WORDS,)
