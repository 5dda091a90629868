"""`save`: a model with ternary layers -> a directory that `load` reads, and transformers in its own formats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.checkpoint.hf_export import (
    check_format,
    config_json,
    encoded,
    eps_inside,
    packed_tensors,
    quantization_config,
    write_model,
)
from bitnet_jit.models.checkpoint.hf_tensors import EMBEDDING, FINAL_NORM, HEAD, BlockNames, LinearNames, block_names
from bitnet_jit.models.checkpoint.own_format import own_metadata
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.decoder import Decoder
from bitnet_jit.nn import BitLinear, PackedBitLinear
from bitnet_jit.packing import FORMATS


def save(model: nn.Module, directory: str | Path, format: str = "autobitlinear") -> None:
    """Write a model as config.json and model.safetensors, its ternary layers packed; each file whole or not at all.

    Args:
        model: a `Decoder` of `load`, or a model that has its architecture in `config`: of transformers after `convert`
            or `pack`, or one of `bitnet-jit train`. It stays as it is.
        directory: is made if need be. Files of a tokenizer are not written.
        format: "autobitlinear" or "bitlinear", the Hugging Face packed format with a scale that multiplies or divides,
            2 bits a weight; "t5" (1.6 bits) or "i2" (2 bits), our own, which keep every bias and scale bit for bit.

    Raises:
        InvalidInput: the format is unknown or cannot hold a layer, which is named, or the norms inside layers; or the
            model has no ternary layer or no architecture.

    >>> import tempfile, bitnet_jit
    >>> from bitnet_jit.models.embedded import embedded_model
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(bitnet_jit.load(embedded_model()), directory, "i2")
    ...     again = bitnet_jit.load(directory)
    >>> bytes(again.generate(list(b"In the "), max_new_tokens=4).tolist()[-4:]).isascii()
    True
    """
    check_format(format)
    config = architecture(model, format)
    if isinstance(model, Decoder):
        tensors, shapes = decoder_tensors(model, format)
    else:
        tensors, shapes = packed_tensors(model, format), ternary_shapes(model)
    metadata = own_metadata(format, shapes) if format in FORMATS else None
    write_model(Path(directory), tensors, config, metadata)


def architecture(model: nn.Module, format: str) -> dict[str, Any]:
    """What config.json says of a model."""
    config: Any = getattr(model, "config", None)
    if isinstance(config, DecoderConfig):
        return config_json(config, format)
    if hasattr(config, "to_dict"):
        return {**config.to_dict(), "quantization_config": quantization_config(format, eps_inside(model, format))}
    raise InvalidInput(
        f"model: expected a Decoder, or a model with its architecture in `config`, got {type(model).__name__}; "
        "the state_dict() of a packed model can be saved by itself"
    )


def ternary_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(N, K) of each ternary weight, by its name in the file."""
    return {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, BitLinear | PackedBitLinear)
    }


def decoder_tensors(decoder: Decoder, format: str) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, int]]]:
    """The tensors of a decoder, its joint layers parted again, and (N, K) of its ternary weights."""
    dense: dict[str, torch.Tensor] = {EMBEDDING: decoder.embedding, FINAL_NORM: decoder.norm.weight}
    if decoder.head is not None:
        dense[HEAD] = decoder.head
    ternary: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for index, block in enumerate(decoder.blocks):
        names = block_names(decoder.config, index)
        dense |= block_norms(names, block)
        for joint, layer in zip(names.linears, block_layers(block), strict=True):
            for name, codes, scale, bias in parted(joint, layer):
                ternary |= encoded(name, codes, scale, bias, format)
                shapes[f"{name}.weight"] = (codes.shape[0], codes.shape[1])
    return ternary | {name: tensor.detach().cpu() for name, tensor in dense.items()}, shapes


def block_norms(names: BlockNames, block: Any) -> dict[str, torch.Tensor]:
    """The weights of a block's norms by their names."""
    attention, middle = block.attention, block.feed_forward
    norms = {
        names.input_norm: attention.norm,
        names.middle_norm: middle.norm,
        names.attention_sub_norm: attention.sub_norm,
        names.mlp_sub_norm: middle.sub_norm,
    }
    return {name: norm.weight for name, norm in norms.items() if norm is not None}


def block_layers(block: Any) -> tuple[PackedBitLinear, ...]:
    """The ternary layers of a block in the order of `BlockNames.linears`."""
    attention, middle = block.attention, block.feed_forward
    return attention.qkv, attention.output, middle.gate_up, middle.down


def parted(
    joint: LinearNames, layer: PackedBitLinear
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Name, codes (N, K), scale (1,) and bias of the layers that share an input and were read as one."""
    codes, scale = (tensor.cpu() for tensor in layer.unpack())
    scales, start = scale.expand(layer.out_features), 0
    for name, rows in joint.parts:
        part = slice(start, start + rows)
        bias = None if layer.bias is None else layer.bias.detach().cpu()[part]
        yield name, codes[part], scales[start : start + 1].clone(), bias
        start += rows
