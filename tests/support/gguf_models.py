"""Models as GGUF files, of decoders that were loaded from other formats."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf_files import F32, I2_S, pack_blocks, write_gguf

from bitnet_jit import Decoder
from bitnet_jit.checkpoints.decoder_names import block_names
from bitnet_jit.checkpoints.decoder_tensors import block_layers, block_norms, parted
from bitnet_jit.checkpoints.formats.gguf.names import gguf_tensor
from bitnet_jit.generation.token_bytes import OF_BYTES

BYTES = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [chr(OF_BYTES[byte]) for byte in range(256)],
    "tokenizer.ggml.merges": [],
}
PAIRED = ("llama",)  # architectures whose rows of q and k stand two by two


def metadata_of(decoder: Decoder, architecture: str) -> dict[str, Any]:
    """Return the keys of a decoder whose tokens are bytes."""
    config = decoder.config
    numbers = {
        "block_count": config.num_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": given for key, given in numbers.items()},
    }
    metadata |= BYTES
    if config.eos_ids:
        metadata["tokenizer.ggml.eos_token_id"] = config.eos_ids[0]
    return metadata


def tensors_of(decoder: Decoder, architecture: str, type_id: int = I2_S) -> dict[str, tuple[int, Any, bytes]]:
    """Return the tensors of a decoder; ternary layers in one type, all else in float32."""
    config = decoder.config
    dense = {"embedding": decoder.embedding, "norm": decoder.norm.weight}
    if decoder.head is not None:
        dense["head"] = decoder.head
    tensors: dict[str, tuple[int, Any, bytes]] = {}
    for index, block in enumerate(decoder.blocks):
        names = block_names(config, index)
        dense |= block_norms(names, block)
        for joint, layer in zip(names.linears, block_layers(block), strict=True):
            for (_, codes, scale, bias), name in zip(parted(joint, layer), joint, strict=True):
                heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(name.name.rsplit(".", 1)[-1])
                rows, offset = codes.numpy(), bias
                if architecture in PAIRED and heads:
                    rows = in_pairs(rows, heads)
                    offset = None if bias is None else torch.from_numpy(in_pairs(bias.float().numpy(), heads))
                tensors[gguf_tensor(name.name)] = type_id, rows.shape, pack_blocks(rows, scale.item(), type_id)
                if offset is not None:
                    tensors[gguf_tensor(name.name).replace(".weight", ".bias")] = floats(offset)
    return tensors | {gguf_tensor(name): floats(tensor) for name, tensor in dense.items()}


def floats(tensor: torch.Tensor) -> tuple[int, Any, bytes]:
    """Return a tensor in float32."""
    return F32, tuple(tensor.shape), tensor.detach().float().numpy().tobytes()


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of q or k as llama.cpp's converters put them: row 2 j + h of a head is row h * D / 2 + j."""
    by_head = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return by_head.swapaxes(1, 2).reshape(rows.shape)


def as_gguf(decoder: Decoder, path: Path, architecture: str, type_id: int = I2_S, **metadata: Any) -> Path:
    """Write a decoder as a GGUF file."""
    keys = metadata_of(decoder, architecture) | metadata
    return write_gguf(path, keys, tensors_of(decoder, architecture, type_id))


def assert_same_weights(origin, read):
    """Assert that two decoders have the same codes, scales and biases."""
    for one, other in zip(origin.blocks, read.blocks, strict=True):
        for expected, layer in zip(block_layers(one), block_layers(other), strict=True):
            (codes, scale), (codes_read, scale_read) = expected.unpack(), layer.unpack()
            assert torch.equal(codes, codes_read)
            assert torch.equal(scale.half().float().expand(scale_read.shape), scale_read.half().float())
            assert (layer.bias is None) == (expected.bias is None)
            assert layer.bias is None or torch.equal(layer.bias, expected.bias.float())
