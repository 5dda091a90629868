"""The output head, and the embedding where it is the head too: floats of a checkpoint, int8 with a scale per row, or
packed ternary codes (`packed_table.py`).

A head of int8 takes half the memory of one in 16 bits, and half the time of a token's logits; `reference.head_logits`
is what it computes. A tied embedding of int8 or of codes serves look-ups, too, so that no copy in floats is kept.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from bitnet_jit.devices.huge_pages import HUGE_PAGES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn.rotation import rotation_of
from bitnet_jit.ops.embedding import embedding
from bitnet_jit.ops.head import head_logits
from bitnet_jit.ops.norm_head import add_rms_norm_head_logits
from bitnet_jit.problem import MAX_INT8_HEAD_FEATURES
from bitnet_jit.quant.head import quantize_head

if TYPE_CHECKING:
    from bitnet_jit.nn.rms_norm import RMSNorm

PACKED = ("i2", "t5")
HEADS = ("checkpoint", "int8", "bfloat16", "float32", *PACKED)  # what a head can be stored as
Stored = torch.Tensor | PackedTable


class DenseTable(NamedTuple):
    """A head or an embedding (V, K) of floats or int8, with the methods of `PackedTable`.

    Attributes:
        weight: (V, K) floating point, or int8.
        scale: (V,) float32 beside int8, else None.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply hidden (..., K) by the table transposed -> (..., V) float32, in float32 or in exact integers.

        >>> table = DenseTable(torch.tensor([[1.0, 1.0], [0.0, -1.0]], dtype=torch.bfloat16))
        >>> table.logits(torch.tensor([1.0, 2.0]))
        tensor([ 3., -2.])
        """
        logits: torch.Tensor = head_logits(hidden, self.weight, self.scale)
        return logits

    def normalized_logits(self, x: torch.Tensor, delta: torch.Tensor, norm: "RMSNorm") -> torch.Tensor:
        """Return the logits of the norm of a sum, x + delta (..., K), to the bit those of its two steps."""
        logits: torch.Tensor = add_rms_norm_head_logits(x, delta, norm.weight, norm.eps, self.weight, self.scale)
        return logits

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows (..., K) of a dtype by ids (...) int64 or int32; one out of range gives NaN.

        >>> codes = torch.tensor([[1, 2], [3, -4]], dtype=torch.int8)
        >>> DenseTable(codes, torch.tensor([1.0, 0.5])).look_up(torch.tensor([1]), torch.float32)
        tensor([[ 1.5000, -2.0000]])
        """
        rows: torch.Tensor = embedding(ids, self.weight, self.scale, dtype)
        return rows


Table = DenseTable | PackedTable


def table_of(stored: Stored, scale: torch.Tensor | None) -> Table:
    """Return a head or an embedding as a table; the scale (V,) float32 is of int8, and not used beside others."""
    if isinstance(stored, PackedTable):
        return stored
    return DenseTable(stored, scale if stored.dtype == torch.int8 else None)


def check_head(head: str) -> str:
    """Return the word for how a head is stored. Raises InvalidInput where it is another."""
    if not isinstance(head, str) or head not in HEADS:
        raise InvalidInput(f"head: expected one of {', '.join(HEADS)}, got {head!r}")
    return head


def stored_head(weight: Stored, head: str) -> tuple[Stored, torch.Tensor | None]:
    """Return a checkpoint's head (V, K) as it is to be kept, and its scales (V,) float32 where that is int8.

    Raises:
        InvalidInput: int8 is asked for, and there are more inputs than its sums hold; or codes are asked for, and the
            weights are not ternary times a scale.

    >>> stored_head(torch.tensor([[1.27, -0.5]]), "int8")
    (tensor([[127, -50]], dtype=torch.int8), tensor([0.0100]))
    """
    if head == "checkpoint" or (isinstance(weight, PackedTable) and head == weight.format):
        return weight, None
    if isinstance(weight, PackedTable):
        if head in PACKED and rotation_of(weight) is not None:
            raise InvalidInput(
                f"head: {head!r} holds no rotated weights, and this head is rotated; use {weight.format!r}"
            )
        weight = weight.dequantize()
    if head in PACKED:
        return PackedTable.from_floats(weight, head), None
    if head != "int8":
        return weight.to(getattr(torch, head)), None
    if weight.shape[1] > MAX_INT8_HEAD_FEATURES:
        raise InvalidInput(
            f"head: int8 takes at most {MAX_INT8_HEAD_FEATURES} inputs, this head has {weight.shape[1]}; "
            "use 'checkpoint' or 'bfloat16'"
        )
    return quantize_head(weight, HUGE_PAGES.empty(weight.shape, torch.int8, weight.device))
