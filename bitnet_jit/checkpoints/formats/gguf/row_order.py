"""The order of the rows of q and k: llama.cpp's architectures turn neighbouring rows of a head, ours its halves.

Row 2 j + h of a head in a file is our row h * D / 2 + j. Rows move as a whole, with their scales and biases.
"""

from collections.abc import Callable

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.ternary import TernaryWeight, with_rows
from bitnet_jit.models.config import DecoderConfig


def reordered(
    weight: TernaryWeight, layer: LinearName, config: DecoderConfig, order: Callable[[torch.Tensor, int], torch.Tensor]
) -> TernaryWeight:
    """Return a weight whose rows are in another order where it is of q or k, any other as it is.

    Codes stay in the memory where they are.

    Args:
        weight, layer, config: of the layer.
        order: `in_halves` or `in_pairs`.
    """
    part = layer.name.rsplit(".", 1)[-1]
    heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(part, 0)
    return with_rows(weight, lambda rows: order(rows, heads)) if heads else weight


def in_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows (heads * D, ...) of a file in our order.

    >>> in_halves(torch.tensor([0, 2, 1, 3]), 1)
    tensor([0, 1, 2, 3])
    """
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def in_pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Return our rows (heads * D, ...) in the order of a file.

    >>> in_pairs(torch.tensor([0, 1, 2, 3]), 1)
    tensor([0, 2, 1, 3])
    """
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
