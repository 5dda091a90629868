"""Packed blocks: attention and feed-forward, each normalized, quantized once, and run on shared codes.

q, k and v are one packed weight, gate and up another. Each layer is one op with all that stands before it: the
residual sum, the activation, the norm and the quantizer. So blocks hand on the residual stream and the last branch's
output apart (`Stream`), and the layer behind adds them.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from bitnet_jit.models.attention import KVStore
from bitnet_jit.ops.fused_linear import (
    add_rms_norm_bit_linear,
    relu2_mul_norm_bit_linear,
    silu_mul_norm_bit_linear,
)
from bitnet_jit.ops.linear import bit_linear
from bitnet_jit.ops.norm_linear import rms_norm_bit_linear

if TYPE_CHECKING:
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm

ACTIVATION = "a8"  # of every layer here
Stream = tuple[torch.Tensor, torch.Tensor | None]  # the residual stream (..., K), and what is still to be added to it


def normalized_linear(norm: "RMSNorm", stream: Stream, layer: "PackedBitLinear") -> tuple[torch.Tensor, torch.Tensor]:
    """Add up a stream, normalize it and run a layer; return the sum x (..., K) and the layer's output (..., N)."""
    x, delta = stream
    if delta is None:
        return x, rms_norm_bit_linear(x, norm.weight, norm.eps, *layer.operands(), ACTIVATION)
    total, y = add_rms_norm_bit_linear(x, delta, norm.weight, norm.eps, *layer.operands())
    return total, y


class PackedAttention(nn.Module):
    """Grouped-query attention with packed layers; BitNet normalizes its result before `output`.

    Args:
        norm: of the block's input.
        qkv: rows of q, k and v one below the other.
        sub_norm: BitNet's norm before `output`, or None.
        output: back to the residual stream.
    """

    quantizes_for_layers = True  # adapters beside the layers would be passed by: see `bitnet_jit.nn.lora`

    def __init__(
        self,
        norm: "RMSNorm",
        qkv: "PackedBitLinear",
        sub_norm: "RMSNorm | None",
        output: "PackedBitLinear",
    ) -> None:
        super().__init__()
        self.norm, self.qkv, self.sub_norm, self.output = norm, qkv, sub_norm, output

    def forward(self, stream: Stream, store: KVStore, layer: int) -> Stream:
        """Mix the tokens of a stream (T, hidden) with those that the store keeps for a layer."""
        x, qkv = normalized_linear(self.norm, stream, self.qkv)
        y = store.attend(layer, qkv)
        if self.sub_norm is None:
            return x, bit_linear(y, *self.output.operands(), ACTIVATION)
        _, y = normalized_linear(self.sub_norm, (y, None), self.output)
        return x, y


class PackedFeedForward(nn.Module):
    """Feed-forward with packed layers: BitNet's relu(gate)^2 * up with a norm behind it, or Llama's silu(gate) * up.

    Args:
        norm: of the input.
        gate_up: rows of gate and up one below the other.
        sub_norm: BitNet's norm before `down`; None makes it Llama's.
        down: back to the residual stream.
    """

    quantizes_for_layers = True

    def __init__(
        self, norm: "RMSNorm", gate_up: "PackedBitLinear", sub_norm: "RMSNorm | None", down: "PackedBitLinear"
    ) -> None:
        super().__init__()
        self.norm, self.gate_up, self.sub_norm, self.down = norm, gate_up, sub_norm, down

    def forward(self, stream: Stream) -> Stream:
        """Transform each token of a stream (T, hidden); normalized and quantized once."""
        x, both = normalized_linear(self.norm, stream, self.gate_up)
        gate, up = both.chunk(2, -1)
        if self.sub_norm is None:
            return x, silu_mul_norm_bit_linear(gate, up, None, 0.0, *self.down.operands())
        norm = self.sub_norm
        return x, relu2_mul_norm_bit_linear(gate, up, norm.weight, norm.eps, *self.down.operands())


class PackedBlock(nn.Module):
    """A block of packed layers: attention and feed-forward, each added to the residual stream by the norm behind it."""

    def __init__(self, attention: PackedAttention, feed_forward: PackedFeedForward) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, stream: Stream, store: KVStore, layer: int) -> Stream:
        """Run the block on the stream of T tokens; the store keeps keys and values of its layer."""
        result: Stream = self.feed_forward(self.attention(stream, store, layer))
        return result
