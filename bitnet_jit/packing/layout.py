"""A layout: the order of a packed weight's bytes in the memory of one kind of device.

A weight is saved in its canonical form and laid out anew when it is loaded; a layout is invertible, padding included.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing.format import Array, Format, dtype_word


@dataclass(frozen=True)
class Layout:
    """An arrangement of a format's bytes.

    Attributes:
        name: travels with every tensor in this layout; the name of the format is the canonical layout.
        format: the packing of the canonical form.
        shape: (out_features, in_features) -> shape of the array.
        from_canonical: (packed, out_features, in_features) -> array of that shape, uint8.
        to_canonical: the inverse.
        lay: (packed, out, in_features) -> None; fills `out`, memory of that shape, in one pass. Both are contiguous
            tensors of torch on the CPU, and large. None: it has none.
    """

    name: str
    format: Format
    shape: Callable[[int, int], tuple[int, ...]]
    from_canonical: Callable[[Array, int, int], Array]
    to_canonical: Callable[[Array, int, int], Array]
    lay: Callable[[Array, Array, int], None] | None = None

    def check(self, packed: Array, out_features: int, in_features: int, name: str = "w_packed") -> None:
        """Raise InvalidInput unless `packed` is uint8 of this layout's shape."""
        expected = self.shape(out_features, in_features)
        if dtype_word(packed) != "uint8" or tuple(packed.shape) != expected:
            raise InvalidInput(
                f"{name}: expected uint8 {expected} for {out_features} x {in_features} in layout {self.name!r}, "
                f"got {packed.dtype} {tuple(packed.shape)}"
            )


def canonical(format: Format) -> Layout:
    """Return the layout in which a format is saved: K-major rows."""
    return Layout(format.name, format, format.packed_shape, same, same)


def same(packed: Array, out_features: int, in_features: int) -> Array:
    """Return the packed weight itself, for the canonical form is its layout."""
    return packed
