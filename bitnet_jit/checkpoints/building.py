"""`Builder`: a reader's tensors -> modules of a decoder, one weight at a time, on the device where they stay."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from bitnet_jit.checkpoints.attention_rows import attention_rows
from bitnet_jit.checkpoints.decoder_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    AttentionNames,
    DeltaNetNames,
    FeedForwardNames,
    LinearName,
    block_names,
)
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.checkpoints.ternary import TernaryWeight, with_rows
from bitnet_jit.models.delta_net import PackedDeltaNet
from bitnet_jit.models.head import Stored
from bitnet_jit.models.inner_norms import BranchNormBlock, InnerNormAttention, InnerNormFeedForward
from bitnet_jit.models.packed import HeadNorms, PackedAttention, PackedBlock, PackedFeedForward
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.models.rope import head_order
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.nn.rotation import Rotation
from bitnet_jit.quant.rotation import SignedBlocks

Packed = TypeVar("Packed", bound=PackedBitLinear)


class Builder:
    """Makes modules out of the tensors of a reader that is open.

    Args:
        reader: of the model.
        device: where the modules live.
        dtype: of activations, and of matrices of floats within blocks.
    """

    def __init__(self, reader: Reader, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.reader, self.config, self.device, self.dtype = reader, reader.config, device, dtype
        self._rotations: dict[SignedBlocks, Rotation] = {}

    def embedding(self) -> Stored:
        """Return the embedding as it is stored, its multiplier in it."""
        return self.table(EMBEDDING, self.config.multipliers.embedding)

    def head(self) -> Stored | None:
        """Return the head as it is stored, None where the embedding is the head."""
        return None if self.config.tied_embeddings else self.table(HEAD)

    def table(self, name: str, multiplier: float = 1.0) -> Stored:
        """Return an embedding or a head, times a number: floats in their own dtype where they fit, or packed codes."""
        if not self.reader.holds_codes(name):
            floats = self.dense(name)
            return floats if multiplier == 1.0 else multiplied(floats, multiplier)
        layer = LinearName(name, self.config.vocab_size, self.config.hidden_size, False)
        return self.packed(
            PackedTable, replace(read_joint(self.reader, [layer], self.device), activation="a16"), multiplier
        )

    def final_norm(self) -> RMSNorm:
        """Return the norm behind the last block, with the multiplier of logits in it."""
        multipliers = self.config.multipliers
        tied = multipliers.embedding if self.config.tied_embeddings else 1.0  # the head is the embedding, multiplied
        norm = self.norm(FINAL_NORM)
        if (multiplier := multipliers.logits / tied) != 1.0:
            norm.weight = torch.nn.Parameter(norm.weight.float() * multiplier, requires_grad=False)
        return norm

    def dense(self, name: str) -> torch.Tensor:
        """Return an embedding, head or norm in its own dtype."""
        return self.reader.dense(name, self.device)

    def norm(self, name: str) -> RMSNorm:
        """Return the norm of that name."""
        weight = self.dense(name)
        norm = RMSNorm(len(weight), self.config.norm_eps, device="meta")
        norm.weight = torch.nn.Parameter(weight, requires_grad=False)
        return norm

    def linear(
        self, layers: Sequence[LinearName], multiplier: float = 1.0, rows: torch.Tensor | None = None
    ) -> PackedBitLinear:
        """Return layers that share an input, as one, with rows in another order if one is given.

        A multiplier of their output goes into scale and bias.
        """
        weight = read_joint(self.reader, layers, self.device)
        if rows is not None:
            weight = with_rows(weight, lambda tensor: tensor[rows.to(tensor.device)])
        return self.packed(PackedBitLinear, weight, multiplier)

    def normed(self, layer: LinearName, multiplier: float = 1.0) -> PackedBitLinear:
        """Return a layer with the norm inside it."""
        packed = self.linear([layer], multiplier)
        packed.put_inside(self.norm(layer.norm))
        return packed

    def packed(self, kind: type[Packed], weight: TernaryWeight, multiplier: float) -> Packed:
        """Return a layer of a kind, whose outputs are multiplied."""
        layer = kind.from_packed(
            weight.w_packed,
            (weight.w_scale * multiplier).to(self.device),
            None if weight.bias is None else (weight.bias * multiplier).to(self.device),
            in_features=weight.in_features,
            group_size=weight.group_size,
            activation=weight.activation,
            counted=True,
        )
        if weight.rotation is not None:
            layer.put_rotation(self.rotation(weight.rotation))
        return layer

    def rotation(self, stored: SignedBlocks) -> Rotation:
        """Return the rotation of an input, one for all layers that share what is stored."""
        if stored not in self._rotations:
            self._rotations[stored] = Rotation(stored.signs.to(self.device), stored.block)
        return self._rotations[stored]

    def block(self, index: int) -> PackedBlock:
        """Return block `index`."""
        names = block_names(self.config, index)
        part = names.attention
        if self.config.inner_norms and isinstance(part, AttentionNames):
            return self.inner_norm_block(part, names.feed_forward, index)
        attention = self.attention(part) if isinstance(part, AttentionNames) else self.delta_net(part)
        return PackedBlock(attention, self.feed_forward(names.feed_forward))

    def inner_norm_block(self, attention: AttentionNames, feed_forward: FeedForwardNames, index: int) -> PackedBlock:
        """Return block `index`, whose layers have norms inside."""
        config, residual = self.config, self.config.multipliers.residual
        q, k, v = map(self.normed, attention.qkv)
        heads = InnerNormAttention(
            self.norm(attention.norm),
            q,
            k,
            v,
            self.normed(attention.output[0], residual),
            self.head_norms(attention),
            config.local is not None and config.local.is_local[index],
        )
        gate, up = map(self.normed, feed_forward.gate_up)
        down = self.normed(feed_forward.down[0], residual)
        middle = InnerNormFeedForward(self.norm(feed_forward.norm), gate, up, down, config.activation)
        if not config.branch_norms:
            return PackedBlock(heads, middle)
        return BranchNormBlock(heads, middle, self.norm(attention.branch_norm), self.norm(feed_forward.branch_norm))

    def attention(self, names: AttentionNames) -> PackedAttention:
        """Return the attention of a block."""
        config = self.config
        rows = attention_rows(config)
        return PackedAttention(
            self.norm(names.norm),
            self.linear(names.qkv, rows=rows),
            self.norm(names.sub_norm) if config.sub_norms else None,
            self.linear(names.output, config.multipliers.residual),
            self.head_norms(names) if config.qk_norms else None,
            config.output_gate,
        )

    def head_norms(self, names: AttentionNames) -> HeadNorms:
        """Return the norms of a block's queries and keys."""
        query, key = self.norm(names.query_norm), self.norm(names.key_norm)
        if (multiplier := self.config.multipliers.query) != 1.0:
            query.weight = torch.nn.Parameter(query.weight.float() * multiplier, requires_grad=False)
        if self.config.rotated_dims:
            order = head_order(self.config.head_dim, self.config.rotated_dims).to(self.device)
            for norm in (query, key):
                norm.weight = torch.nn.Parameter(norm.weight[order], requires_grad=False)
        return HeadNorms(self.config.num_heads, self.config.num_kv_heads, query, key)

    def delta_net(self, names: DeltaNetNames) -> PackedDeltaNet:
        """Return the gated DeltaNet of a block."""
        return PackedDeltaNet(
            self.norm(names.norm),
            self.linear(names.projection),
            torch.cat((self.dense(names.b), self.dense(names.a))).to(self.dtype),
            self.dense(names.conv).float(),
            self.dense(names.decay).float(),
            self.dense(names.dt_bias).float(),
            self.norm(names.head_norm),
            self.linear(names.output, self.config.multipliers.residual),
        )

    def feed_forward(self, names: FeedForwardNames) -> PackedFeedForward:
        """Return the feed-forward part of a block."""
        return PackedFeedForward(
            self.norm(names.norm),
            self.linear(names.gate_up),
            self.norm(names.sub_norm) if self.config.sub_norms else None,
            self.linear(names.down, self.config.multipliers.residual),
            self.config.activation,
        )


def multiplied(floats: torch.Tensor, multiplier: float) -> torch.Tensor:
    """Return floats times a number, in float32 where their own dtype would round them."""
    exact = floats.float() * multiplier
    same = exact.to(floats.dtype)
    return same if torch.equal(same.float(), exact) else exact
