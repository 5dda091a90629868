"""`save`: a model with ternary layers -> a directory that `load` reads, and transformers in its own formats."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitnet_jit.checkpoints.decoder_tensors import block_layers, decoder_tensors
from bitnet_jit.checkpoints.file_names import GENERATION
from bitnet_jit.checkpoints.formats.gemma3 import in_files
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_names import EMBEDDING
from bitnet_jit.checkpoints.formats.hf_pooling import pooling_files
from bitnet_jit.checkpoints.formats.registry import get_writer
from bitnet_jit.checkpoints.formats.writer import Writer, said_activation
from bitnet_jit.checkpoints.generation_file import generation_json
from bitnet_jit.checkpoints.model_tensors import Tensors, eps_inside, packed_tensors, ternary_shapes
from bitnet_jit.checkpoints.publish import check_place, staged, write_json, write_model
from bitnet_jit.checkpoints.read_back import check_read_back, of_transformers
from bitnet_jit.checkpoints.savable import check_savable, dense_layers
from bitnet_jit.checkpoints.shared import one_copy_each
from bitnet_jit.dtypes import dtype_name
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.system.writing import writing


def save(model: nn.Module, directory: str | Path, format: str = "autobitlinear") -> None:
    """Write a model as config.json and model.safetensors, its ternary layers packed; it is read back, or refused.

    It is read as `load` reads it, and as transformers does where the model is of transformers, before it takes the
    place of an older model. An error leaves the folder as it was; docs/checkpoints.md lists the files that stay.

    Args:
        model: a `Decoder` of `load`, or a model that has its architecture in `config`: of transformers after `convert`,
            `pack` or `patch`, or one of `bitnet-jit train`. It stays as it is. Tied weights are written once.
        directory: is made if need be. Files of a tokenizer are not written.
        format: "autobitlinear" or "bitlinear", the Hugging Face packed format with a scale that multiplies or divides,
            2 bits per weight; "t5" (1.6 bits) or "i2" (2 bits), our own, which keep every bias and scale bit for bit.

    Raises:
        InvalidInput: the format is unknown or cannot hold a layer, which is named; the model cannot be saved, or the
            path is no place for it, as docs/checkpoints.md lists; or the files cannot be read back.
        WriteError: the disk is full, or the folder cannot be written to.

    >>> import tempfile, bitnet_jit
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(bitnet_jit.load(), directory, "i2")
    ...     again = bitnet_jit.load(directory)
    >>> bytes(again.generate(list(b"In the "), max_new_tokens=4).tolist()[-4:]).isascii()
    True
    """
    writer, place = get_writer(format), Path(directory)
    check_place(place)
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which keeps the model in this attribute
    check_architecture(model)
    check_savable(model, writer)
    write(model, place, writer)


def write(model: Any, place: Path, writer: Writer) -> None:
    """Write a model that was checked, and read it back."""
    if isinstance(model, Decoder):
        activation = said_activation(block_layers(model.blocks[0])[0].activation, writer)
        tensors, shapes = decoder_tensors(model, writer, activation)
    else:
        tensors, shapes, activation = packed_tensors(model, writer), ternary_shapes(model), "a8"
    tied = getattr(model, "all_tied_weights_keys", None)  # of models of transformers
    tensors, config = one_copy_each(tensors, architecture(model, writer, tensors), tied)
    with writing(place), staged(place) as folder:
        write_model(folder, tensors, config, writer.metadata(shapes, activation))
        complete(folder, place, model, config, writer)


def complete(folder: Path, place: Path, model: Any, config: dict[str, Any], writer: Writer) -> None:
    """Write generation_config.json and the pooling beside a model in a folder, and read all of it back.

    Args:
        folder: with what was written.
        place: where it is to lie.
        model: of which it was written, or what has its config.
        config: its config.json.
        writer: by which it was written.
    """
    if (generation := generation_json(model, config, place)) is not None:
        write_json(folder / GENERATION, generation)
    if isinstance(model.config, DecoderConfig) and (pooling := getattr(model, "pooling", None)) is not None:
        for name, content in pooling_files(pooling, model.config.hidden_size).items():
            write_json(folder / name, content)
    check_read_back(folder, place, model, writer)


def check_architecture(model: Any) -> None:
    """Raise InvalidInput where a model has no architecture in its config."""
    config = getattr(model, "config", None)
    if not isinstance(config, DecoderConfig) and not hasattr(config, "to_dict"):
        raise InvalidInput(
            f"model: expected a Decoder, or a model with its architecture in `config`, got {type(model).__name__}; "
            "the state_dict() of a packed model can be saved by itself"
        )


def architecture(model: Any, writer: Writer, tensors: Tensors) -> dict[str, Any]:
    """Return the config.json of a model that is written as these tensors."""
    dtype, dense = main_dtype(tensors), dense_layers(model)
    if isinstance(model.config, DecoderConfig):
        return config_json(in_files(model.config), writer, dtype, None if dense in ([], ["lm_head"]) else dense)
    said = {**model.config.to_dict(), "dtype": dtype_name(dtype)}
    said.pop("torch_dtype", None)  # the same by its old name
    if of_transformers(model):
        said["architectures"] = [type(model).__name__]
    # a null spares the head alone, in every version of transformers
    names = None if dense == ["lm_head"] else dense
    return said | {"quantization_config": writer.quantization_config(eps_inside(model, writer), names)}


def main_dtype(tensors: Tensors) -> torch.dtype:
    """Return the dtype of the embedding, or of the first floating matrix where there is none, as scales are float32."""
    matrices = (tensor for tensor in tensors.values() if tensor.dim() > 1 and tensor.is_floating_point())
    first = tensors.get(EMBEDDING, next(matrices, None))
    return torch.float32 if first is None else first.dtype
