"""Blocks of BitNet embedding models: each ternary layer has a norm of its own inside, before its quantizer.

Layers that share an input do not share its codes then, as their norms differ: q, k and v run apart, as do gate and up.
Gemma's blocks have a norm of what each branch adds to the residual stream, too.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from bitnet_jit.models.attention import KVStore
from bitnet_jit.models.packed import GATES, HeadNorms, PackedBlock, Stream, add_normalized, rows_of

if TYPE_CHECKING:
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm


class InnerNormAttention(nn.Module):
    """Grouped-query attention whose layers have norms inside.

    Args:
        norm: of the block's input.
        q, k, v: the layers of queries, keys and values.
        output: back to the residual stream.
        head_norms: of queries and keys.
        is_local: whether its heads turn by the rotary frequencies of local layers.
    """

    def __init__(
        self,
        norm: "RMSNorm",
        q: "PackedBitLinear",
        k: "PackedBitLinear",
        v: "PackedBitLinear",
        output: "PackedBitLinear",
        head_norms: HeadNorms,
        is_local: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v, self.output = norm, q, k, v, output
        self.head_norms, self.is_local = head_norms, is_local

    def forward(self, stream: Stream, store: KVStore, layer: int, wanted: torch.Tensor | None = None) -> Stream:
        """Mix the tokens of a stream (T, hidden) with those that the store keeps for a layer; return wanted rows."""
        x, normalized = add_normalized(stream, self.norm)
        qkv = torch.cat((self.q(normalized), self.k(normalized), self.v(normalized)), -1)
        y = store.attend(layer, self.head_norms(qkv), self.is_local)
        if wanted is not None:
            x, y = rows_of(x, wanted), rows_of(y, wanted)
        return x, self.output(y)


class InnerNormFeedForward(nn.Module):
    """Feed-forward whose layers have norms inside: silu(gate) * up or gelu(gate) * up.

    Args:
        norm: of the input.
        gate: the layer of the gate.
        up: the layer of what it multiplies.
        down: back to the residual stream.
        activation: "silu" or "gelu".
    """

    def __init__(
        self,
        norm: "RMSNorm",
        gate: "PackedBitLinear",
        up: "PackedBitLinear",
        down: "PackedBitLinear",
        activation: str,
    ) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = norm, gate, up, down
        self.activation = activation

    def forward(self, stream: Stream) -> Stream:
        """Transform each token of a stream (T, hidden)."""
        x, normalized = add_normalized(stream, self.norm)
        return x, self.down(GATES[self.activation](self.gate(normalized), self.up(normalized), None, 0.0))


class BranchNormBlock(PackedBlock):
    """A block with a norm of what attention adds to the residual stream, and one of what feed-forward adds.

    Args:
        attention, feed_forward: as of `PackedBlock`.
        attention_norm: of the output of attention.
        feed_forward_norm: of the output of feed-forward.
    """

    def __init__(
        self,
        attention: InnerNormAttention,
        feed_forward: InnerNormFeedForward,
        attention_norm: "RMSNorm",
        feed_forward_norm: "RMSNorm",
    ) -> None:
        super().__init__(attention, feed_forward)
        self.attention_norm, self.feed_forward_norm = attention_norm, feed_forward_norm

    def forward(self, stream: Stream, store: KVStore, layer: int, wanted: torch.Tensor | None = None) -> Stream:
        """Run the block on the stream of T tokens, as `PackedBlock` does."""
        x, branch = self.attention(stream, store, layer, wanted)
        x, branch = self.feed_forward((x, self.attention_norm(branch)))
        return x, self.feed_forward_norm(branch)
