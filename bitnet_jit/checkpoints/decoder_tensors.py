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
from bitnet_jit.checkpoints.formats.hf_floats import usual_forms
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, names_for
from bitnet_jit.checkpoints.formats.writer import Writer, check_activation, encoded
from bitnet_jit.checkpoints.unmultiplied import unmultiplied
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.inner_norms import BranchNormBlock, InnerNormAttention
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.nn.rotation import stored_rotation

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder


def decoder_tensors(
    decoder: "Decoder", writer: Writer, activation: str
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, int]]]:
    """Return the tensors of a decoder, and (N, K) of its ternary weights.

    Args:
        decoder: the model.
        writer: of the ternary layers.
        activation: with which the files say that layers run.

    Raises:
        InvalidInput: the format cannot hold a layer or a norm, which is named.
    """
    config = decoder.config
    dense: dict[str, torch.Tensor] = {FINAL_NORM: decoder.norm.weight}
    for name, stored in ((EMBEDDING, decoder.embedding), (HEAD, decoder.head)):
        assert not isinstance(stored, PackedTable), "savable.py refuses it"
        if stored is not None:
            dense[name] = stored
    ternary: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for index, block in enumerate(decoder.blocks):
        names = block_names(config, index)
        dense |= block_norms(names, block)
        for joint, layer in zip(joint_names(names, config), block_layers(block), strict=True):
            if (norm := norm_inside(layer)) is not None:
                dense[joint[0].norm] = norm.weight
            for name, codes, scale, bias in parted(joint, layer):
                check_activation(name, layer.activation, activation, writer)
                ternary |= encoded(name, codes, scale, bias, writer, stored_rotation(layer))
                shapes[f"{name}.weight"] = (codes.shape[0], codes.shape[1])
    return ternary | in_their_form(config, dense), shapes


def in_their_form(config: DecoderConfig, dense: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the floats of a decoder as files hold them, by their names there."""
    names, forms, there = names_for(config), usual_forms(config), {}
    for name, tensor in dense.items():
        stored = names.tensor(name)
        there[stored] = forms.exactly(name, stored, unmultiplied(name, stored, tensor.detach().cpu(), config))
    return there


def block_norms(names: BlockNames, block: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a block's norms by their names; those inside layers are not among them."""
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
        of_attention.sub_norm: getattr(attention, "sub_norm", None),
        of_middle.sub_norm: getattr(middle, "sub_norm", None),
        of_attention.query_norm: None if heads is None else heads.query,
        of_attention.key_norm: None if heads is None else heads.key,
    }
    if isinstance(block, BranchNormBlock):
        norms |= {of_attention.branch_norm: block.attention_norm, of_middle.branch_norm: block.feed_forward_norm}
    return {name: norm.weight for name, norm in norms.items() if norm is not None}


def joint_names(names: BlockNames, config: DecoderConfig) -> Sequence[Sequence[LinearName]]:
    """Return the names of the layers that were read as one, for each layer of `block_layers`."""
    return [(part,) for joint in names.linears for part in joint] if config.inner_norms else names.linears


def block_layers(block: Any) -> tuple[PackedBitLinear, ...]:
    """Return the ternary layers of a block in the order of `BlockNames.linears`."""
    attention, middle = block.attention, block.feed_forward
    if isinstance(attention, InnerNormAttention):
        return attention.q, attention.k, attention.v, attention.output, middle.gate, middle.up, middle.down
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
