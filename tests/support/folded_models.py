"""Models whose weights were folded with a Hadamard transform, as GGUF files, and the unfolded ones in floats."""

import json
from pathlib import Path

import numpy as np
import torch
from gguf_files import PQ2_0, pack_blocks
from gguf_models import metadata_of, tensors_of
from safetensors.torch import save_file

from bitnet_jit.checkpoints.decoder_names import block_names
from bitnet_jit.checkpoints.decoder_tensors import block_layers, block_norms, parted
from bitnet_jit.checkpoints.formats.hf_names import HfNames

BLOCK = 64
SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "head_dim": 64}
WIDTHS = (128, 256, 384)  # of the inputs of layers of that size
PREFIX = "prism.hadamard."


def matrix(block):
    """Return H (block, block) float64, entry by entry."""
    signs = [[(-1.0) ** (row & column).bit_count() for column in range(block)] for row in range(block)]
    return np.array(signs) / np.sqrt(block)


def signs_of(width):
    """Return random signs (width,) int32, the same ones for the same width."""
    return np.random.default_rng(width).choice(np.array([-1, 1], np.int32), width)


def unfolded(rows, block=BLOCK):
    """Return the rows (N, K) of a matrix that was folded to `rows`: signs * (H w), in float64."""
    by_block = np.asarray(rows, np.float64).reshape(len(rows), -1, block)
    return (by_block @ matrix(block)).reshape(len(rows), -1) * signs_of(rows.shape[1])


def keys_of(names, inverse=("token_embd.weight",), **changes):
    """Return the keys of folded weights by their names; None leaves one out."""
    keys = {
        "version": 1,
        "block_size": BLOCK,
        "transform": "normalized-sylvester-walsh-hadamard",
        "axis": "input-last-dimension",
        "sign_mode": "explicit",
        "weight_names": list(names),
        "sign_widths": np.array(WIDTHS),
        "sign_values": np.concatenate([signs_of(width) for width in WIDTHS]),
        "inverse_weight_names": list(inverse),
    } | changes
    return {PREFIX + key: given for key, given in keys.items() if given is not None}


def folded_tensors(decoder, architecture="qwen3", type_id=PQ2_0):
    """Return the tensors of a decoder, its head and embedding in random codes, as if they all were folded."""
    tensors = tensors_of(decoder, architecture, type_id)
    for seed, name in enumerate(("token_embd.weight", "output.weight")):
        if name in tensors:
            codes = table_codes(decoder, seed)
            tensors[name] = PQ2_0, codes.shape, pack_blocks(codes, 0.5, PQ2_0)
    return tensors


def table_codes(decoder, seed):
    """Return the codes of the embedding (0) or the head (1)."""
    config = decoder.config
    return np.random.default_rng(seed).integers(-1, 2, (config.vocab_size, config.hidden_size), np.int8)


def folded_names(tensors):
    """Return the names of the layers that are folded, and of the head."""
    return [name for name, (kind, *_) in tensors.items() if kind and name != "token_embd.weight"]


def folded_file(decoder, architecture="qwen3", **changes):
    """Return metadata and tensors of a model whose weights are all folded."""
    tensors = folded_tensors(decoder, architecture)
    return metadata_of(decoder, architecture) | keys_of(folded_names(tensors), **changes), tensors


def write_unfolded(decoder, origin: Path, folder: Path) -> Path:
    """Write the unfolded model in floats, in the format of transformers; `origin` has its config.json."""
    folder.mkdir()
    said = json.loads((origin / "config.json").read_text()) | {"quantization_config": None, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(said))
    tensors = {"norm": decoder.norm.weight}
    tensors |= {name: in_float32(table_codes(decoder, i) * 0.5) for i, name in enumerate(("embedding", "head"))}
    for index, block in enumerate(decoder.blocks):
        names = block_names(decoder.config, index)
        tensors |= block_norms(names, block)
        for joint, layer in zip(names.linears, block_layers(block), strict=True):
            for (_, codes, scale, _), name in zip(parted(joint, layer), joint, strict=True):
                tensors[name.name] = in_float32(codes.numpy() * np.float64(np.float16(scale.item())))
    named = {HfNames().tensor(name): tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors")
    return folder


def in_float32(folded):
    """Return an unfolded matrix in float32."""
    return torch.from_numpy(unfolded(folded).astype(np.float32))
