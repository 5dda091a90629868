"""Packed blocks: attention and feed-forward, each normalized, quantized once, and run on shared codes.

q, k and v are one packed weight, gate and up another. Each layer is one op with all that stands before it: the
residual sum, the activation, the norm and the quantizer. So blocks hand on the residual stream and the last branch's
output apart (`Stream`), and the layer behind adds them.

Layers with activation "a16" or "a8g" take floats, so each is two ops: all that stands before it, then the product.
So is a layer that rotates its input (`nn/rotation.py`), whatever its activation.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from bitnet_jit.models.attention import KVStore
from bitnet_jit.nn.rotation import rotation_of
from bitnet_jit.ops.embedding import embedding
from bitnet_jit.ops.fused_linear import (
    add_rms_norm_bit_linear,
    relu2_mul_norm_bit_linear,
    silu_mul_norm_bit_linear,
)
from bitnet_jit.ops.hadamard import add_rms_norm_hadamard, rms_norm_hadamard, silu_mul_hadamard
from bitnet_jit.ops.linear import bit_linear
from bitnet_jit.ops.norm import add_rms_norm, gelu_mul_norm, relu2_mul_norm, rms_norm, sigmoid_mul_norm, silu_mul_norm
from bitnet_jit.ops.norm_linear import rms_norm_bit_linear

if TYPE_CHECKING:
    from bitnet_jit.models.delta_net import PackedDeltaNet
    from bitnet_jit.models.inner_norms import InnerNormAttention, InnerNormFeedForward
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm

GATES = {"relu2": relu2_mul_norm, "silu": silu_mul_norm, "gelu": gelu_mul_norm}
FUSED_GATES = {"relu2": relu2_mul_norm_bit_linear, "silu": silu_mul_norm_bit_linear}
Stream = tuple[torch.Tensor, torch.Tensor | None]  # the residual stream (..., K), and what is still to be added to it


def run_normalized(layer: "PackedBitLinear", norm: "RMSNorm", stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up a stream, normalize it, and run a layer on it; return the sum x (..., K) and the layer's output."""
    x, delta = stream
    if (rotation := rotation_of(layer)) is not None:
        signs, block = rotation.signs, rotation.block
        if delta is None:
            rotated = rms_norm_hadamard(x, norm.weight, norm.eps, signs, block)
        else:
            x, rotated = add_rms_norm_hadamard(x, delta, norm.weight, norm.eps, signs, block)
        return x, bit_linear(rotated, *layer.operands(), layer.activation)
    if delta is None:
        return x, rms_norm_bit_linear(x, norm.weight, norm.eps, *layer.operands(), layer.activation)
    if layer.activation != "a8":
        total, normalized = add_rms_norm(x, delta, norm.weight, norm.eps)
        return total, layer(normalized)
    total, y = add_rms_norm_bit_linear(x, delta, norm.weight, norm.eps, *layer.operands())
    return total, y


def add_normalized(stream: Stream, norm: "RMSNorm") -> tuple[torch.Tensor, torch.Tensor]:
    """Add up a stream; return the sum (T, K), and its norm, for layers that normalize it further or share it."""
    x, delta = stream
    if delta is None:
        return x, rms_norm(x, norm.weight, norm.eps)
    total, normalized = add_rms_norm(x, delta, norm.weight, norm.eps)
    return total, normalized


def rows_of(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows (W,) int32 of x (T, K)."""
    if x.device.type != "cpu":
        return x[rows]
    copied: torch.Tensor = embedding(rows, x, None, x.dtype)  # torch's threads would spin on, for as long as a layer
    return copied


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
        gated: whether rows behind q, k and v are Qwen3.5's gate of what the heads give.
    """

    quantizes_for_layers = True  # adapters beside the layers would be passed by: see `bitnet_jit.nn.lora`

    def __init__(
        self,
        norm: "RMSNorm",
        qkv: "PackedBitLinear",
        sub_norm: "RMSNorm | None",
        output: "PackedBitLinear",
        head_norms: HeadNorms | None = None,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.qkv, self.sub_norm, self.output = norm, qkv, sub_norm, output
        self.head_norms, self.gated = head_norms, gated

    def forward(self, stream: Stream, store: KVStore, layer: int, wanted: torch.Tensor | None = None) -> Stream:
        """Mix the tokens of a stream (T, hidden) with those that the store keeps for a layer; return wanted rows."""
        x, joint = run_normalized(self.qkv, self.norm, stream)
        y = self.gated_heads(joint, store, layer) if self.gated else self.heads(joint, store, layer)
        if wanted is not None:
            x, y = rows_of(x, wanted), rows_of(y, wanted)
        return x, self.project_out(y)

    def heads(self, qkv: torch.Tensor, store: KVStore, layer: int) -> torch.Tensor:
        """Normalize the heads if the model does, and attend: qkv (T, rows of q, k, v) -> (T, num_heads * head_dim)."""
        return store.attend(layer, qkv if self.head_norms is None else self.head_norms(qkv))

    def gated_heads(self, joint: torch.Tensor, store: KVStore, layer: int) -> torch.Tensor:
        """Attend, and multiply by the sigmoid of the gate, whose rows are the last ones of joint."""
        gate = joint.shape[-1] - self.output.in_features
        y: torch.Tensor = sigmoid_mul_norm(joint[:, gate:], self.heads(joint[:, :gate], store, layer), None, 0.0)
        return y

    def project_out(self, y: torch.Tensor) -> torch.Tensor:
        """Project the result of the heads, y (T, num_heads * head_dim) -> (T, hidden)."""
        if self.sub_norm is not None:
            _, projected = run_normalized(self.output, self.sub_norm, (y, None))
        else:
            rotation = rotation_of(self.output)
            rotated = y if rotation is None else rotation(y)
            projected = bit_linear(rotated, *self.output.operands(), self.output.activation)
        return projected


class PackedFeedForward(nn.Module):
    """Feed-forward with packed layers: relu(gate)^2 * up or silu(gate) * up, BitNet's with a norm behind it.

    Args:
        norm: of the input.
        gate_up: rows of gate and up one below the other.
        sub_norm: BitNet's norm before `down`, or None; "relu2" has one.
        down: back to the residual stream.
        activation: "relu2" or "silu".
    """

    quantizes_for_layers = True

    def __init__(
        self,
        norm: "RMSNorm",
        gate_up: "PackedBitLinear",
        sub_norm: "RMSNorm | None",
        down: "PackedBitLinear",
        activation: str,
    ) -> None:
        super().__init__()
        self.norm, self.gate_up, self.sub_norm, self.down = norm, gate_up, sub_norm, down
        self.activation = activation

    def forward(self, stream: Stream) -> Stream:
        """Transform each token of a stream (T, hidden); normalized and quantized once."""
        x, joint = run_normalized(self.gate_up, self.norm, stream)
        gate, up = joint.chunk(2, -1)
        if (rotation := rotation_of(self.down)) is not None and self.activation == "silu" and self.sub_norm is None:
            rotated = silu_mul_hadamard(gate, up, rotation.signs, rotation.block)
            return x, bit_linear(rotated, *self.down.operands(), self.down.activation)
        if self.down.activation != "a8" or rotation is not None:
            return x, self.down(self.float_middle(gate, up))
        op = FUSED_GATES[self.activation]
        return x, op(gate, up, *self.inner_norm(), *self.down.operands())

    def float_middle(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Activate the gate, multiply it with up, and normalize if the model does."""
        middle: torch.Tensor = GATES[self.activation](gate, up, *self.inner_norm())
        return middle

    def inner_norm(self) -> tuple[torch.Tensor | None, float]:
        """Return weight and eps of the norm before `down`."""
        return (None, 0.0) if self.sub_norm is None else (self.sub_norm.weight, self.sub_norm.eps)


class PackedBlock(nn.Module):
    """A block of packed layers: attention and feed-forward, each added to the residual stream by the norm behind it.

    Args:
        attention: attention, or what stands in its place.
        feed_forward: what follows.
    """

    def __init__(
        self,
        attention: "PackedAttention | PackedDeltaNet | InnerNormAttention",
        feed_forward: "PackedFeedForward | InnerNormFeedForward",
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, stream: Stream, store: KVStore, layer: int, wanted: torch.Tensor | None = None) -> Stream:
        """Run the block on the stream of T tokens; the store keeps what its tokens leave.

        Args:
            stream: of T tokens.
            store: keeps keys and values of the layer, or its states.
            layer: the place of the block among those of its kind.
            wanted: (W,) int32: the rows that are computed behind attention, and returned; None: all.
        """
        result: Stream = self.feed_forward(self.attention(stream, store, layer, wanted))
        return result
