"""A packing: how many codes a byte holds, and how they get in and out of it.

Codes are w + 1 in {0, 1, 2}. A packed weight is canonical when it is uint8 (N, ceil(K / codes_per_byte)) with the
codes of a row in ascending order of K, the first of a byte in its lowest digit; missing codes of the last byte are 1
(weight 0). A `Format` takes and returns NumPy arrays, torch tensors or MLX arrays: its functions use only what these
share.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from bitnet_jit.errors import InvalidInput

Array = Any  # numpy.ndarray, torch.Tensor or mlx.core.array


@dataclass(frozen=True)
class Format:
    """A packing of ternary codes.

    Attributes:
        name: as it is saved, such as "i2".
        codes_per_byte: inputs in one byte.
        digits: packed (...,) uint8 -> list of `codes_per_byte` arrays (...,) uint8, the codes from the lowest digit up.
        join: the inverse of `digits`.
    """

    name: str
    codes_per_byte: int
    digits: Callable[[Array], list[Array]]
    join: Callable[[list[Array]], Array]

    def packed_shape(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Return the shape of the canonical packed weight of an (out_features, in_features) layer."""
        return out_features, -(-in_features // self.codes_per_byte)

    def num_bytes(self, out_features: int, in_features: int) -> int:
        """Return the number of bytes of the canonical packed weight."""
        rows, columns = self.packed_shape(out_features, in_features)
        return rows * columns

    def pack(self, w_q: Array) -> Array:
        """Pack w_q (N, K) int8 in {-1, 0, 1} into the canonical packed weight, uint8 (N, ceil(K / codes_per_byte)).

        Raises:
            InvalidInput: w_q is not two-dimensional int8, or holds another value.

        >>> from bitnet_jit.packing import FORMATS
        >>> FORMATS["i2"].pack(np.array([[-1, 0, 1, 1, 1]], np.int8)).tolist()
        [[164, 86]]
        """
        array_module(w_q)  # which refuses lists
        check_codes(w_q)
        return self.pack_unchecked(w_q)

    def pack_unchecked(self, w_q: Array) -> Array:
        """Pack codes that are known to be right: as `pack`, without waiting for a device, so that a graph can hold it.

        >>> from bitnet_jit.packing import FORMATS
        >>> FORMATS["i2"].pack_unchecked(np.array([[-1, 0, 1, 1, 1]], np.int8)).tolist()
        [[164, 86]]
        """
        xp = array_module(w_q)
        rows, columns = self.packed_shape(*w_q.shape)
        codes = xp.ones((rows, columns * self.codes_per_byte), dtype=xp.uint8, **device_of(w_q))
        codes[:, : w_q.shape[1]] = (w_q + 1).view(xp.uint8)
        codes = codes.reshape(rows, columns, self.codes_per_byte)
        return self.join([codes[:, :, digit] for digit in range(self.codes_per_byte)])

    def unpack(self, packed: Array, in_features: int) -> Array:
        """Unpack a canonical packed weight into w_q (N, in_features) int8 in {-1, 0, 1}.

        Raises:
            InvalidInput: `packed` has another dtype or shape, or holds a code 3.

        >>> from bitnet_jit.packing import FORMATS
        >>> FORMATS["i2"].unpack(np.array([[164, 86]], np.uint8), 5).tolist()
        [[-1, 0, 1, 1, 1]]
        """
        array_module(packed)  # which refuses lists
        self.check(packed, in_features)
        w_q = self.unpack_unchecked(packed, in_features)
        if 0 not in w_q.shape:
            self.check_largest(int(w_q.max()) + 1)
        return w_q

    def unpack_unchecked(self, packed: Array, in_features: int) -> Array:
        """Unpack a weight that is known to be right: as `unpack`, without waiting for a device.

        >>> from bitnet_jit.packing import FORMATS
        >>> FORMATS["i2"].unpack_unchecked(np.array([[164, 86]], np.uint8), 5).tolist()
        [[-1, 0, 1, 1, 1]]
        """
        xp = array_module(packed)
        rows, columns = packed.shape
        codes = xp.stack(self.digits(packed), -1).reshape(rows, columns * self.codes_per_byte)[:, :in_features]
        return codes.view(xp.int8) - 1

    def check(self, packed: Array, in_features: int) -> None:
        """Raise InvalidInput unless `packed` is, in dtype and shape, a canonical weight with `in_features` inputs."""
        columns = self.packed_shape(1, in_features)[1]
        if packed.ndim != 2 or dtype_word(packed) != "uint8" or packed.shape[1] != columns:
            raise InvalidInput(
                f"packed: expected uint8 (N, {columns}) in format {self.name} for in_features={in_features}, "
                f"got {packed.dtype} {tuple(packed.shape)}"
            )

    def check_bytes(self, packed: Array, name: str = "packed") -> None:
        """Raise InvalidInput where a byte of `packed` holds a code above 2: one pass, at the speed of the memory."""
        xp = array_module(packed)
        counts = xp.bincount(packed.reshape(-1), minlength=256)
        present = np.flatnonzero(counts if xp is np else counts.cpu().numpy()).astype(np.uint8)
        if len(present):
            self.check_largest(max(int(codes.max()) for codes in self.digits(present)), name)

    def check_largest(self, code: int, name: str = "packed") -> None:
        """Raise InvalidInput where the largest code of a packed weight is above 2."""
        if code > 2:
            raise InvalidInput(f"{name}: found the code {code} in format {self.name}; ternary codes are 0, 1 and 2")


def array_module(a: Array) -> ModuleType | Any:
    """Return the library of an array: numpy, torch or mlx.core; neither of the latter two is imported for another."""
    if isinstance(a, np.ndarray):
        return np
    if is_mlx(a):
        return sys.modules["mlx.core"]
    import torch

    if isinstance(a, torch.Tensor):
        return torch
    raise InvalidInput(f"expected a NumPy array, a torch tensor or an MLX array, got {type(a).__name__}")


def is_mlx(a: Array) -> bool:
    """Return whether something is an array of MLX, which is not imported here: it has been where there is one."""
    mx = sys.modules.get("mlx.core")
    return mx is not None and isinstance(a, mx.array)


def dtype_word(a: Array) -> str:
    """Return the name of an array's dtype, such as "uint8", whatever its library."""
    return str(a.dtype).rpartition(".")[2]


def device_of(a: Array) -> dict[str, Any]:
    """Return keyword arguments that make a new array on the device of `a`."""
    return {"device": a.device} if hasattr(a, "data_ptr") else {}


def check_codes(w_q: Array) -> None:
    """Raise InvalidInput unless w_q is (N, K) int8 with values -1, 0 and 1."""
    if w_q.ndim != 2 or dtype_word(w_q) != "int8":
        raise InvalidInput(f"w_q: expected int8 (N, K), got {w_q.dtype} {tuple(w_q.shape)}")
    if 0 not in w_q.shape and (int(w_q.min()) < -1 or int(w_q.max()) > 1):
        raise InvalidInput(f"w_q: expected values -1, 0 and 1, got {int(w_q.min())}..{int(w_q.max())}")
