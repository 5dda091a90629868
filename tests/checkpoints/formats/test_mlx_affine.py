"""Folders of mlx-lm: MLX's own numbers, and mlx-lm's own logits."""

import json

import numpy as np
import pytest
import torch
from mlx_folders import as_mlx, dequantized, logits_of_mlx
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.packed_table import PackedTable

WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
IDS = list(b"In the beginning")


@pytest.fixture
def make(write_checkpoint, tmp_path):
    """Return a function that writes a folder of mlx-lm."""

    def make(model_type="qwen3", group_size=32, tables=0, changes=None, **fields):
        floats = write_checkpoint({"group_size": group_size}, model_type, **WIDE, **fields)
        return as_mlx(floats, tmp_path / "mlx", group_size, tables, changes)

    return make


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("tables", [0, 2, 4, 8])
def test_numbers_are_those_of_mlx(make, group_size, tables):
    folder = make(group_size=group_size, tables=tables)
    decoder = bitnet_jit.load(folder)
    down = decoder.blocks[1].feed_forward.down
    assert (down.activation, down.group_size) == ("a16", group_size)
    assert np.array_equal(down.dequantize().float().numpy(), dequantized(folder, "model.layers.1.mlp.down_proj"))
    if tables:
        embedding = decoder.embedding
        assert isinstance(embedding, PackedTable) == (tables == 2)
        numbers = embedding.dequantize() if tables == 2 else embedding
        np.testing.assert_allclose(numbers.float().numpy(), dequantized(folder, "model.embed_tokens"), rtol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "tables", "fields"),
    [
        ("qwen3", 2, {}),
        ("qwen3", 4, {"tie_word_embeddings": True}),
        ("qwen3", 2, {"tie_word_embeddings": True}),
        ("llama", 0, {}),
    ],
)
def test_logits_are_those_of_mlx_lm(make, model_type, tables, fields):
    folder = make(model_type, 64, tables, rms_norm_eps=1e-6, rope_theta=1e4, **fields)
    expected = logits_of_mlx(folder, IDS)
    decoder = bitnet_jit.load(folder)
    logits = decoder(torch.tensor([IDS]))[0].numpy()
    assert np.abs(logits - expected).max() < 2e-4 * np.abs(expected).max()


def changed(folder, name, change):
    """Change a tensor of a folder."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors")


def test_weights_that_are_not_ternary_are_named(make):
    folder = make()
    changed(
        folder, "model.layers.1.mlp.up_proj.biases", lambda biases: biases * torch.tensor([1.0] * 3 + [2.0]).bfloat16()
    )
    with pytest.raises(CheckpointError, match=r"up_proj.biases: expected the negative scales.*, found others in row 0"):
        bitnet_jit.load(folder)


def test_a_code_3_is_named(make):
    folder = make()
    changed(
        folder, "model.layers.0.self_attn.q_proj.weight", lambda words: (words.view(torch.int32) | 3).view(torch.uint32)
    )
    with pytest.raises(CheckpointError, match=r"q_proj.weight: .* found the code 3 in 1024 places"):
        bitnet_jit.load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 4}, "q_proj.weight: expected codes of 2 bits, found 4 bits"),
        ({"bits": 3}, "bits: expected one of 2, 4, 8, found 3"),
        ({"mode": "mxfp4"}, "mode: expected 'affine', found 'mxfp4'"),
        ({"group_size": 33}, "group_size: expected a multiple of 32, found 33"),
        ({"group_size": 96}, r"q_proj.weight: expected inputs in groups of 96, found 128 of them"),
        ({"group_size": None}, "group_size: expected a whole number from 1 .*, found None"),
        ({"model.layers.0.mlp.up_proj": False}, "up_proj.weight: expected codes of 2 bits, found floats"),
        ({"model.layers.0.mlp.up_proj": {"bits": 8, "group_size": 32}}, "up_proj.* codes of 2 bits, found 8 bits"),
        ({"lm_head": 4}, "lm_head: expected an object, found 4"),
    ],
)
def test_a_description_that_is_wrong_is_named(make, changes, words):
    with pytest.raises(CheckpointError, match=words):
        bitnet_jit.load(make(changes=changes))


def test_a_scale_that_is_missing_is_named(make):
    folder = make()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj.scales: expected .* \(256, 4\), found no such tensor"):
        bitnet_jit.load(folder)


def test_a_description_of_both_kinds_is_that_of_mlx(make):
    folder = make()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = config["quantization"]
    (folder / "config.json").write_text(json.dumps(config))
    assert bitnet_jit.load(folder).blocks[0].feed_forward.down.group_size == 32
