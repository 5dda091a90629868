"""A model of ours as a GGUF file, tensor by tensor, by the package `gguf`: ternary layers in 2 bits, the same weights.

BitNet's shapes are written as architecture "bitnet", whose feed-forward has SiLU where ours has relu squared: as much
work, other values. Llama's are "llama", whose rotary pairs lie side by side, so that rows of q and k change places;
Qwen3's are "qwen3", whose rows stay.
The head is float16, or Q8_0 for an int8 one; where the embedding is the head, both are one tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.models.shapes import ModelShape
from benchmarks.providers.models.gguf_blocks import BlockType, as_bytes, block_scales, choose_type
from bitnet_jit.checkpoints.decoder_layers import ternary_layers
from bitnet_jit.checkpoints.decoder_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    AttentionNames,
    BlockNames,
    LinearName,
    block_names,
)
from bitnet_jit.checkpoints.formats.gguf.target import GgufTarget
from bitnet_jit.checkpoints.formats.gguf.writing import write_file
from bitnet_jit.checkpoints.formats.reader import Chat, Reader
from bitnet_jit.checkpoints.ternary import empty_i2
from bitnet_jit.models.config import DecoderConfig

PARTS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "output": "attn_output"}
PARTS |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
F32, F16, Q8_0 = 0, 1, 8
Q8_BLOCK, Q8_BYTES = 32, 34
ROWS = 4096  # of a head that are quantized at a time


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    Attributes:
        shape: of its values, the slowest dimension first.
        kind: the id of its type.
        num_bytes: of the data.
        make: returns the data.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    num_bytes: int
    make: Callable[[], NDArray[Any]]


def architecture(config: DecoderConfig) -> str:
    """Return llama.cpp's name for an architecture."""
    return "bitnet" if config.sub_norms else "qwen3" if config.qk_norms else "llama"


def ternary_type(
    shape: ModelShape, config: DecoderConfig, known: Callable[[BlockType], bool] = lambda kind: True
) -> BlockType:
    """Return the type of the ternary layers among those that are known; ValueError where none fits."""
    return choose_type((config.hidden_size, config.q_features, config.intermediate_size), shape.group_size, known)


def entries(reader: Reader, kind: BlockType, head: str) -> Iterator[Entry]:
    """Yield the tensors of a model in the order of the file; `head` is "checkpoint" or "int8"."""
    config = reader.config
    matrix = (config.vocab_size, config.hidden_size)
    head_kind = Q8_0 if head == "int8" else F16
    yield matrix_entry(reader, "token_embd", EMBEDDING, matrix, head_kind if config.tied_embeddings else F16)
    if not config.tied_embeddings:
        yield matrix_entry(reader, "output", HEAD, matrix, head_kind)
    yield norm_entry(reader, "output_norm", FINAL_NORM, config.hidden_size)
    for index in range(config.num_layers):
        names = block_names(config, index)
        titles = norm_titles(names)
        for name, (features,) in names.floats(config):
            yield norm_entry(reader, f"blk.{index}.{titles[name]}", name, features)
        for joint in names.linears:
            for layer in joint:
                yield ternary_entry(reader, layer, kind, index)


def norm_titles(names: BlockNames) -> dict[str, str]:
    """Return GGUF's names of the norms of a block that attends by ours."""
    attention, feed_forward = names.attention, names.feed_forward
    assert isinstance(attention, AttentionNames)
    return {
        attention.norm: "attn_norm",
        feed_forward.norm: "ffn_norm",
        attention.query_norm: "attn_q_norm",
        attention.key_norm: "attn_k_norm",
        attention.sub_norm: "attn_sub_norm",
        feed_forward.sub_norm: "ffn_sub_norm",
    }


def norm_entry(reader: Reader, title: str, name: str, features: int) -> Entry:
    """Return a norm, float32."""
    return Entry(f"{title}.weight", (features,), F32, 4 * features, lambda: reader.dense(name).float().numpy())


def matrix_entry(reader: Reader, title: str, name: str, shape: tuple[int, int], kind: int) -> Entry:
    """Return an embedding or head, float16 or Q8_0."""
    size = shape[0] * shape[1]
    num_bytes = 2 * size if kind == F16 else size // Q8_BLOCK * Q8_BYTES
    encode = as_float16 if kind == F16 else q8_0
    return Entry(f"{title}.weight", shape, kind, num_bytes, lambda: encode(reader.dense(name)))


def ternary_entry(reader: Reader, layer: LinearName, kind: BlockType, index: int) -> Entry:
    """Return a ternary layer."""
    part = layer.name.rpartition(".")[2]
    shape = (layer.out_features, layer.in_features)
    num_bytes = layer.out_features * (layer.in_features // 4 + 2 * layer.in_features // kind.block)
    make = partial(encode_ternary, reader, layer, kind)
    return Entry(f"blk.{index}.{PARTS[part]}.weight", shape, kind.number, num_bytes, make)


def encode_ternary(reader: Reader, layer: LinearName, kind: BlockType) -> NDArray[np.uint8]:
    """Return a layer in blocks, uint8 (N, bytes of a row), its rows in the order of the architecture."""
    shape, config = (layer.out_features, layer.in_features), reader.config
    weight = reader.ternary(layer, empty_i2(*shape))
    codes = weight.w_packed.numpy()
    scales = block_scales(weight.w_scale.numpy(), kind, shape, weight.group_size)
    if architecture(config) == "llama" and layer.name.endswith((".q", ".k")):
        order = paired_rows(layer.out_features, config.head_dim)
        codes, scales = codes[order], scales[order]
    return kind.encode(codes, scales)


def paired_rows(rows: int, head_dim: int) -> NDArray[np.int64]:
    """Return our row for each row of the file, where the halves of a head that turn together lie side by side.

    >>> paired_rows(8, 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return np.arange(rows).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)


def as_float16(matrix: torch.Tensor) -> NDArray[np.float16]:
    """Return a matrix in float16."""
    return matrix.half().numpy()


def q8_0(matrix: torch.Tensor) -> NDArray[np.uint8]:
    """Return a matrix (N, K) in blocks of 32: a scale in float16, max|x| / 127, then 32 int8."""
    pieces = []
    for piece in matrix.split(ROWS):
        x = piece.float().view(len(piece), -1, Q8_BLOCK)
        scale = x.abs().amax(-1) / 127
        q = (x / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round().to(torch.int8)
        blocks = np.concatenate((as_bytes(scale.half().numpy()), q.numpy().view(np.uint8)), -1)
        pieces.append(blocks.reshape(len(piece), -1))
    return np.concatenate(pieces)


def write_gguf(file: Path, shape: ModelShape, head: str, kind: BlockType) -> None:
    """Write a model, its ternary layers of a type; a layer is in memory while it is written, no longer.

    Raises:
        ModuleNotFoundError: the package `gguf` is not installed.
        ValueError: llama.cpp does not run such a model.
    """
    from gguf import GGUFWriter

    with shape.open_reader() as reader:
        if reader.config.delta_net is not None:
            write_delta_net(file, reader, shape.name, head)
            return
        tensors = list(entries(reader, kind, head))
        writer = GGUFWriter(file, architecture(reader.config))
        describe(writer, reader.config)
        for entry in tensors:
            # ids that `gguf` has no name for, such as Q2_0's, go into the file as they are
            writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.int8), entry.num_bytes, raw_dtype=entry.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in tensors:
            writer.write_tensor_data(np.ascontiguousarray(entry.make()))
        writer.close()


def write_delta_net(file: Path, reader: Reader, name: str, head: str) -> None:
    """Write a model with a gated DeltaNet by our own writer: layers, embedding and head in Q2_0."""
    if head != "checkpoint":
        raise ValueError(f"llama.cpp: this benchmark writes Qwen3.5 with its own head alone, not {head}")
    if any(reader.rotation(layer) is not None for layer in ternary_layers(reader)):
        raise ValueError("llama.cpp: it rotates no inputs")
    target = GgufTarget("q2_0", lossy=True)
    keys = target.metadata(reader, Chat(None, {}), name) | {"tokenizer.ggml.model": "none"}
    with file.open("wb") as out:
        write_file(out, keys, list(target.tensors(reader)))


def describe(writer: Any, config: DecoderConfig) -> None:
    """Add the sizes of an architecture, and that there is no tokenizer."""
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
