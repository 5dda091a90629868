"""`PackedTable`: an output head, or an embedding that is the head too, whose weights are ternary and stay packed.

It is made of floats that are exactly codes times scales, as the heads of some ternary models are, so it stands for the
same numbers in 2 bits per weight (i2) or 1.6 (t5). Logits are sums of float32 in float32.
"""

from typing import TYPE_CHECKING, Self

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rotation import rotation_of
from bitnet_jit.ops.norm import add_rms_norm
from bitnet_jit.ops.packed_embedding import packed_embedding
from bitnet_jit.ops.packed_logits import packed_logits
from bitnet_jit.packing import get_format
from bitnet_jit.quant.ternary import coarsest_scale, split_ternary

if TYPE_CHECKING:
    from bitnet_jit.nn.rms_norm import RMSNorm

GROUP_SIZE = 128  # inputs per scale, where rows have several
CHUNK_ELEMENTS = 2**20  # of the floats, split at a time


class PackedTable(PackedBitLinear):
    """A packed ternary table (V, K) with its scales; see `PackedBitLinear` for its tensors."""

    @classmethod
    def from_floats(cls, weight: torch.Tensor, format: str) -> Self:
        """Pack a table of floats that are ternary times a scale: of the table, of each row, or of 128 inputs each.

        Args:
            weight: (V, K) floating point.
            format: "i2", or "t5" (no scales of groups).

        Raises:
            InvalidInput: a row, or with "i2" a group, has two magnitudes, or one that is not finite.

        >>> table = PackedTable.from_floats(torch.tensor([[0.5, -0.5], [0.0, 2.0]]), "i2")
        >>> table.logits(torch.tensor([[1.0, 3.0]])), table.look_up(torch.tensor([1]), torch.bfloat16)
        (tensor([[-1.,  6.]]), tensor([[0., 2.]], dtype=torch.bfloat16))
        """
        rows, inputs = weight.shape
        group_size = GROUP_SIZE if format == "i2" and inputs > GROUP_SIZE else inputs
        packing = get_format(format)
        w_packed = torch.empty(packing.packed_shape(rows, inputs), dtype=torch.uint8, device=weight.device)
        scales = torch.empty((rows, -(-inputs // group_size)), dtype=torch.float32, device=weight.device)
        step = max(1, CHUNK_ELEMENTS // inputs)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            w_q, scales[part], exact = split_ternary(weight[part], group_size)
            if not bool(exact.all()):
                raise not_ternary(weight, start + first_row(exact), group_size, format)
            w_packed[part] = packing.pack(w_q)
        w_scale = coarsest_scale(scales)
        return cls.from_packed(
            w_packed,
            w_scale,
            in_features=inputs,
            group_size=group_size if w_scale.dim() == 2 else 0,
            activation="a16",
            format=format,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply hidden (..., K) by the table transposed -> (..., V) float32."""
        rotation = rotation_of(self)
        rotated = hidden if rotation is None else rotation(hidden)
        y: torch.Tensor = packed_logits(rotated, *self.operands())
        return y

    def normalized_logits(self, x: torch.Tensor, delta: torch.Tensor, norm: "RMSNorm") -> torch.Tensor:
        """Return the logits of the norm of a sum, x + delta (..., K)."""
        _, y = add_rms_norm(x, delta, norm.weight, norm.eps)
        return self.logits(y)

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows (..., K) of a dtype by ids (...) int64 or int32; one out of range gives NaN.

        Rows of a folded table are rotated back: they are those of the matrix that its logits multiply by.
        """
        w_packed, w_scale, _, *options = self.operands()
        rotation = rotation_of(self)
        rows: torch.Tensor = packed_embedding(
            ids, w_packed, w_scale, *options, dtype if rotation is None else torch.float32
        )
        return rows if rotation is None else rotation.undo(rows).to(dtype)


def first_row(exact: torch.Tensor) -> int:
    """Return the first row of (N, groups) bool that holds False."""
    return int(exact.all(1).to(torch.uint8).argmin())


def not_ternary(weight: torch.Tensor, row: int, group_size: int, format: str) -> InvalidInput:
    """Return the error that says where a row's weights are not ternary times a scale of a format."""
    groups = split_ternary(weight[row : row + 1], group_size)
    first = group_size * int(groups.exact[0].to(torch.uint8).argmin())
    last = min(first + group_size, weight.shape[1]) - 1
    magnitudes = weight[row, first : last + 1].float().abs()
    largest = magnitudes.amax()
    others = magnitudes[(magnitudes != 0) & (magnitudes != largest)]
    values = f"magnitude {float(largest):g}"
    if len(others):
        values = f"magnitudes {float(largest):g} and {float(others[0]):g}"
    by_group = ""
    if format == "t5" and weight.shape[1] > GROUP_SIZE:
        by_group = ", or 'i2' where each 128 inputs have a scale"
    return InvalidInput(
        f"head: {format!r} stores weights that are -1, 0 or 1 times a scale, but row {row} has the {values} among its "
        f"inputs {first} to {last}; use 'checkpoint' or 'int8'{by_group}"
    )
