"""The tensors of a `Decoder` by the names of Hugging Face, as a format holds them; joint layers are parted again."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.checkpoints.decoder_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    AttentionNames,
    BlockNames,
    LinearName,
    block_names,
)
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, hf_tensor
from bitnet_jit.checkpoints.formats.writer import Writer, encoded
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rotation import stored_rotation

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder


def decoder_tensors(decoder: "Decoder", writer: Writer) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, int]]]:
    """Return the tensors of a decoder, and (N, K) of its ternary weights.

    Raises:
        InvalidInput: the format cannot hold a layer, which is named.
    """
    dense: dict[str, torch.Tensor] = {FINAL_NORM: decoder.norm.weight}
    for name, stored in ((EMBEDDING, decoder.embedding), (HEAD, decoder.head)):
        assert not isinstance(stored, PackedTable), "savable.py refuses it"
        if stored is not None:
            dense[name] = stored
    ternary: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for index, block in enumerate(decoder.blocks):
        names = block_names(decoder.config, index)
        dense |= block_norms(names, block)
        for joint, layer in zip(names.linears, block_layers(block), strict=True):
            for name, codes, scale, bias in parted(joint, layer):
                ternary |= encoded(name, codes, scale, bias, writer, stored_rotation(layer))
                shapes[f"{name}.weight"] = (codes.shape[0], codes.shape[1])
    return ternary | {hf_tensor(name): tensor.detach().cpu() for name, tensor in dense.items()}, shapes


def block_norms(names: BlockNames, block: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a block's norms by their names."""
    attention, middle, of_attention, of_middle = (
        block.attention,
        block.feed_forward,
        names.attention,
        names.feed_forward,
    )
    assert isinstance(of_attention, AttentionNames), "savable.py refuses others"
    heads = attention.head_norms
    norms = {
        of_attention.norm: attention.norm,
        of_middle.norm: middle.norm,
        of_attention.sub_norm: attention.sub_norm,
        of_middle.sub_norm: middle.sub_norm,
        of_attention.query_norm: None if heads is None else heads.query,
        of_attention.key_norm: None if heads is None else heads.key,
    }
    return {name: norm.weight for name, norm in norms.items() if norm is not None}


def block_layers(block: Any) -> tuple[PackedBitLinear, ...]:
    """Return the ternary layers of a block in the order of `BlockNames.linears`."""
    attention, middle = block.attention, block.feed_forward
    return attention.qkv, attention.output, middle.gate_up, middle.down


def parted(
    joint: Sequence[LinearName], layer: PackedBitLinear
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Yield name, codes (N, K), scale (1,) and bias of the layers that share an input and were read as one."""
    codes, scale = (tensor.cpu() for tensor in layer.unpack())
    start = 0
    for part in joint:
        rows, name = slice(start, start + part.out_features), hf_layer(part.name)
        scales = scale if scale.dim() == 0 else scale[rows]
        if bool((scales != scales.flatten()[0]).any()):
            raise InvalidInput(f"{name}: this format holds layers with one scale, got scale={layer.scale!r}")
        bias = None if layer.bias is None else layer.bias.detach().cpu()[rows]
        yield name, codes[rows], scales.flatten()[:1].clone(), bias
        start += part.out_features
