"""The output head, and the embedding where it is the head too: floats of a checkpoint, or int8 with a scale per row.

A head of int8 takes half the memory of one in 16 bits, and half the time of a token's logits; `reference.head_logits`
is what it computes. A tied embedding of int8 serves look-ups, too, so that no copy in floats is kept.
"""

import torch

from bitnet_jit.devices.huge_pages import HUGE_PAGES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.embedding import embedding as embedding_op
from bitnet_jit.ops.head import head_logits
from bitnet_jit.problem import MAX_INT8_HEAD_FEATURES
from bitnet_jit.quant.head import quantize_head

HEADS = ("checkpoint", "int8", "bfloat16", "float32")  # what a head can be stored as


def project(hidden: torch.Tensor, head: torch.Tensor, head_scale: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply hidden states by a head transposed, in float32 or in exact integers.

    Args:
        hidden: (..., K) floating point.
        head: (V, K) floating point, or int8.
        head_scale: (V,) float32 beside a head of int8, else None.

    Returns:
        (..., V) float32.

    >>> project(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [0.0, -1.0]], dtype=torch.bfloat16))
    tensor([ 3., -2.])
    """
    logits: torch.Tensor = head_logits(hidden, head, head_scale)
    return logits


def look_up(ids: torch.Tensor, embedding: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Return the embeddings of token ids.

    Args:
        ids: (...) int64 or int32; one out of range gives NaN.
        embedding: (V, K) floating point, or int8.
        scale: (V,) float32 of an embedding of int8, which is the head too; not used beside floats.
        dtype: of the result.

    Returns:
        (..., K).

    >>> codes = torch.tensor([[1, 2], [3, -4]], dtype=torch.int8)
    >>> look_up(torch.tensor([1]), codes, torch.tensor([1.0, 0.5]), torch.float32)
    tensor([[ 1.5000, -2.0000]])
    """
    rows: torch.Tensor = embedding_op(ids, embedding, scale if embedding.dtype == torch.int8 else None, dtype)
    return rows


def check_head(head: str) -> str:
    """Return the word for how a head is stored. Raises InvalidInput where it is another."""
    if not isinstance(head, str) or head not in HEADS:
        raise InvalidInput(f"head: expected one of {', '.join(HEADS)}, got {head!r}")
    return head


def stored_head(weight: torch.Tensor, head: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a checkpoint's head (V, K) as it is stored, and its scales (V,) float32 where that is int8.

    Raises:
        InvalidInput: int8 is asked for, and there are more inputs than its sums hold.

    >>> stored_head(torch.tensor([[1.27, -0.5]]), "int8")
    (tensor([[127, -50]], dtype=torch.int8), tensor([0.0100]))
    """
    if head == "checkpoint":
        return weight, None
    if head != "int8":
        return weight.to(getattr(torch, head)), None
    if weight.shape[1] > MAX_INT8_HEAD_FEATURES:
        raise InvalidInput(
            f"head: int8 takes at most {MAX_INT8_HEAD_FEATURES} inputs, this head has {weight.shape[1]}; "
            "use 'checkpoint' or 'bfloat16'"
        )
    return quantize_head(weight, HUGE_PAGES.empty(weight.shape, torch.int8, weight.device))
