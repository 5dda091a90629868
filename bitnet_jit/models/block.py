"""One block of a decoder, and all of them in a row, whatever layers they hold.

`packed.py` has blocks that run, with q, k, v in one weight and gate, up in another; `trainable.py` those that learn,
with a layer for each of them. Here stands the common part: the order of a block's steps, and its residual stream.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class FeedForward(nn.Module):
    """Gated feed-forward; a subclass holds its layers and its activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each token of x (..., hidden) -> (..., hidden)."""
        return self.project_down(*self.project_gate_up(x))

    def project_gate_up(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project x (..., hidden) to gate and up, each (..., intermediate)."""
        raise NotImplementedError

    def project_down(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Activate the gate, multiply it with up, normalize if the model does, and project to (..., hidden)."""
        raise NotImplementedError


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream; a subclass holds them and their norms."""

    def forward(self, x: torch.Tensor, context: Any, layer: int = 0) -> torch.Tensor:
        """Run the block on x (..., hidden) -> the same shape.

        Args:
            x: the residual stream.
            context: what attention needs beside x: rotary tables where blocks learn, a `KVStore` where they run.
            layer: the place of the block among the blocks.
        """
        x = x + self.mix_tokens(x, context, layer)
        return x + self.transform_tokens(x)

    def mix_tokens(self, x: torch.Tensor, context: Any, layer: int) -> torch.Tensor:
        """Normalize x and attend."""
        raise NotImplementedError

    def transform_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x and feed it forward."""
        raise NotImplementedError


def run_blocks(blocks: Iterable[nn.Module], x: torch.Tensor, context: Any) -> torch.Tensor:
    """Run blocks one behind the other on x (..., hidden); the context is that of `Block.forward`."""
    for layer, block in enumerate(blocks):
        x = block(x, context, layer)
    return x
