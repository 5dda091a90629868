"""`save`: a model with ternary layers -> a directory that `load` reads, and transformers in its own formats."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitnet_jit.checkpoints.formats.hf_export import (
    check_format,
    config_json,
    dtype_name,
    encoded,
    eps_inside,
    packed_tensors,
    quantization_config,
    write_model,
)
from bitnet_jit.checkpoints.formats.hf_tensors import EMBEDDING, FINAL_NORM, HEAD, BlockNames, LinearNames, block_names
from bitnet_jit.checkpoints.formats.own_format import own_metadata
from bitnet_jit.checkpoints.generation_file import GENERATION, generation_json
from bitnet_jit.checkpoints.publish import check_place, staged
from bitnet_jit.checkpoints.read_back import check_read_back, of_transformers
from bitnet_jit.checkpoints.savable import check_savable, dense_layers
from bitnet_jit.checkpoints.shared import one_copy_each
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.nn import BitLinear, PackedBitLinear
from bitnet_jit.packing import FORMATS
from bitnet_jit.system.files import write_beside_and_rename
from bitnet_jit.system.writing import writing


def save(model: nn.Module, directory: str | Path, format: str = "autobitlinear") -> None:
    """Write a model as config.json and model.safetensors, its ternary layers packed; it is read back, or refused.

    What is written is read as `load` reads it, and as transformers does where the model is of transformers, before it
    takes the place of an older model: then an index of several files goes with the files that it names, and
    generation_config.json names no end tokens of another model. All other files stay. Whatever fails leaves the
    folder as it was.

    A model of transformers that `load` does not run (another architecture, layers left dense, norms inside layers,
    other rotary positions than plain and Llama 3.1's) is saved in the Hugging Face formats, if transformers reads it.

    Args:
        model: a `Decoder` of `load`, or a model that has its architecture in `config`: of transformers after `convert`,
            `pack` or `patch`, or one of `bitnet-jit train`. It stays as it is. Tied weights are written once.
        directory: is made if need be. Files of a tokenizer are not written.
        format: "autobitlinear" or "bitlinear", the Hugging Face packed format with a scale that multiplies or divides,
            2 bits a weight; "t5" (1.6 bits) or "i2" (2 bits), our own, which keep every bias and scale bit for bit.

    Raises:
        InvalidInput: the format is unknown or cannot hold a layer, which is named, or the norms inside layers; the
            model has no ternary layer or no architecture; it has adapters that are not merged, a ternary head, or no
            head; the path is no folder, or holds an adapter of peft, which transformers would load instead; or what was
            written cannot be read back, for a reason that the message gives.
        WriteError: the disk is full, or the folder cannot be written to.

    >>> import tempfile, bitnet_jit
    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(bitnet_jit.load(embedded_model()), directory, "i2")
    ...     again = bitnet_jit.load(directory)
    >>> bytes(again.generate(list(b"In the "), max_new_tokens=4).tolist()[-4:]).isascii()
    True
    """
    check_format(format)
    place = Path(directory)
    check_place(place)
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which keeps the model in this attribute
    check_architecture(model)
    check_savable(model, format)
    if isinstance(model, Decoder):
        tensors, shapes = decoder_tensors(model, format)
    else:
        tensors, shapes = packed_tensors(model, format), ternary_shapes(model)
    tied = getattr(model, "all_tied_weights_keys", None)  # of models of transformers
    tensors, config = one_copy_each(tensors, architecture(model, format, tensors), tied)
    metadata = own_metadata(format, shapes) if format in FORMATS else None
    with writing(place), staged(place) as folder:
        write_model(folder, tensors, config, metadata)
        if (generation := generation_json(model, config, place)) is not None:
            write_beside_and_rename(folder / GENERATION, (json.dumps(generation, indent=2) + "\n").encode())
        check_read_back(folder, place, model, format)


def check_architecture(model: Any) -> None:
    """Raise InvalidInput where a model does not say what it is."""
    config = getattr(model, "config", None)
    if not isinstance(config, DecoderConfig) and not hasattr(config, "to_dict"):
        raise InvalidInput(
            f"model: expected a Decoder, or a model with its architecture in `config`, got {type(model).__name__}; "
            "the state_dict() of a packed model can be saved by itself"
        )


def architecture(model: Any, format: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What config.json says of a model that is written as these tensors."""
    dtype, dense = main_dtype(tensors), dense_layers(model)
    if isinstance(model.config, DecoderConfig):
        return config_json(model.config, format, dtype, None if dense in ([], ["lm_head"]) else dense)
    said = {**model.config.to_dict(), "dtype": dtype_name(dtype)}
    said.pop("torch_dtype", None)  # the same by its old name
    if of_transformers(model):
        said["architectures"] = [type(model).__name__]
    # a null spares the head alone, in every version of transformers
    names = None if dense == ["lm_head"] else dense
    return said | {"quantization_config": quantization_config(format, eps_inside(model, format), names)}


def main_dtype(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """The dtype of the embedding, or of the first floating matrix where there is none; scales are float32 anyhow."""
    matrices = (tensor for tensor in tensors.values() if tensor.dim() > 1 and tensor.is_floating_point())
    first = tensors.get(EMBEDDING, next(matrices, None))
    return torch.float32 if first is None else first.dtype


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
