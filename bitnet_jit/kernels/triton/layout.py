"""How Triton kernels want packed weights: rows of bytes whose four fields hold inputs a quarter of the row apart.

    i2/planes   (N, B) uint8, B = 64 * ceil(K / 256); byte j holds at bits 2s, 2s + 1 the weight of input s * B + j

A field is the weight itself in two's complement (-1 is 3): shifted to the top of its byte, it is 64 times the weight as
int8. So sums need no correction for an offset of the codes, and missing inputs are zero bits, whatever x holds there.
"""

from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.format import Array, array_module, device_of
from bitnet_jit.packing.layout import Layout

I2 = FORMATS["i2"]
CHUNK = 64  # bytes of a row that kernels take at a time: B is a multiple


def row_bytes(in_features: int) -> int:
    """B: bytes of a row; a quarter of the inputs with padding."""
    return CHUNK * -(-in_features // (4 * CHUNK))


def planes_shape(out_features: int, in_features: int) -> tuple[int, int]:
    """Shape of a weight in this layout."""
    return out_features, row_bytes(in_features)


def from_canonical(packed: Array, out_features: int, in_features: int) -> Array:
    """Canonical uint8 (N, ceil(K / 4)) -> planes."""
    xp = array_module(packed)
    num_bytes = row_bytes(in_features)
    fields = xp.zeros((out_features, 4 * num_bytes), dtype=xp.uint8, **device_of(packed))
    fields[:, :in_features] = I2.unpack(packed, in_features).view(xp.uint8) & 3
    fields = fields.reshape(out_features, 4, num_bytes)
    return I2.join([fields[:, plane] for plane in range(4)])


def to_canonical(planes: Array, out_features: int, in_features: int) -> Array:
    """The inverse of `from_canonical`."""
    xp = array_module(planes)
    fields = xp.stack(I2.digits(planes), 1).reshape(out_features, -1)[:, :in_features]
    return I2.pack(((fields + 1) & 3).view(xp.int8) - 1)


I2_PLANES = Layout("i2/planes", I2, planes_shape, from_canonical, to_canonical)
LAYOUTS = (I2_PLANES,)
