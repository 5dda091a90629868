"""Packed blocks: attention and feed-forward, each normalized, quantized once, and run on shared codes.

q, k and v are one packed weight, gate and up another: their input is normalized and quantized by one kernel, and its
codes go through one matmul.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from bitnet_jit.models.attention import KVStore
from bitnet_jit.models.block import Block, FeedForward
from bitnet_jit.ops.norm import (
    quantize_activation,
    relu2_mul_norm_quantize,
    rms_norm_quantize,
    silu_mul_norm_quantize,
)

if TYPE_CHECKING:
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm

Codes = tuple[torch.Tensor, torch.Tensor]  # x_q int8 (..., K), x_scale float32 (...)


def normalized_codes(norm: "RMSNorm", x: torch.Tensor) -> Codes:
    """Normalize and quantize x (..., K) in one pass."""
    codes: Codes = rms_norm_quantize(x, norm.weight, norm.eps)
    return codes


class HeadNorms(nn.Module):
    """Qwen3's norms of queries and keys, by heads.

    Args:
        num_heads: of queries.
        num_kv_heads: of keys, and of values.
        query: the norm of a head of queries, (D,).
        key: the norm of a head of keys, (D,).
    """

    def __init__(self, num_heads: int, num_kv_heads: int, query: "RMSNorm", key: "RMSNorm") -> None:
        super().__init__()
        self.counts, self.query, self.key = (num_heads, num_kv_heads, num_kv_heads), query, key

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Normalize the heads of queries and keys in qkv (T, (num_heads + 2 * num_kv_heads) * D); values stay."""
        heads = qkv.view(len(qkv), sum(self.counts), -1)
        query, keys, values = heads.split(self.counts, 1)
        return torch.cat((self.query(query), self.key(keys), values), 1).flatten(1)


class PackedAttention(nn.Module):
    """Grouped-query attention with packed layers; BitNet normalizes its result before `output`.

    Args:
        norm: of the block's input.
        qkv: rows of q, k and v one below the other.
        sub_norm: BitNet's norm before `output`, or None.
        output: back to the residual stream.
        head_norms: Qwen3's norms of queries and keys, or None.
    """

    quantizes_for_layers = True  # adapters beside the layers would be passed by: see `bitnet_jit.nn.lora`

    def __init__(
        self,
        norm: "RMSNorm",
        qkv: "PackedBitLinear",
        sub_norm: "RMSNorm | None",
        output: "PackedBitLinear",
        head_norms: HeadNorms | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.qkv, self.sub_norm, self.output = norm, qkv, sub_norm, output
        self.head_norms = head_norms

    def forward(self, x: torch.Tensor, store: KVStore, layer: int) -> torch.Tensor:
        """Mix the tokens of x (T, hidden) -> (T, hidden) with those that the store keeps for a layer."""
        return self.project_out(store.attend(layer, self.project_qkv(x)))

    def project_qkv(self, x: torch.Tensor) -> torch.Tensor:
        """Project x (T, hidden) to queries, keys and values of all heads, side by side; normalize if the model does."""
        qkv = self.qkv.forward_quantized(*normalized_codes(self.norm, x), x.dtype)
        if self.head_norms is not None:
            qkv = self.head_norms(qkv)
        return qkv

    def project_out(self, y: torch.Tensor) -> torch.Tensor:
        """Project the result of the heads, y (T, num_heads * head_dim) -> (T, hidden)."""
        codes: Codes = quantize_activation(y) if self.sub_norm is None else normalized_codes(self.sub_norm, y)
        return self.output.forward_quantized(*codes, y.dtype)


class PackedFeedForward(FeedForward):
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

    def project_gate_up(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalize x (T, hidden) and project it to gate and up."""
        gate, up = self.gate_up.forward_quantized(*normalized_codes(self.norm, x), x.dtype).chunk(2, -1)
        return gate, up

    def project_down(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Activate, multiply, normalize and quantize in one pass, and project to (T, hidden)."""
        codes: Codes
        if self.sub_norm is None:
            codes = silu_mul_norm_quantize(gate, up, None, 0.0)
        else:
            codes = relu2_mul_norm_quantize(gate, up, self.sub_norm.weight, self.sub_norm.eps)
        return self.down.forward_quantized(*codes, gate.dtype)


class PackedBlock(Block):
    """A block of packed layers, whose norms are parts of attention and feed-forward."""

    def __init__(self, attention: PackedAttention, feed_forward: PackedFeedForward) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def mix_tokens(self, x: torch.Tensor, context: KVStore, layer: int) -> torch.Tensor:
        """Normalize x and attend."""
        y: torch.Tensor = self.attention(x, context, layer)
        return y

    def transform_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x and feed it forward."""
        y: torch.Tensor = self.feed_forward(x)
        return y
