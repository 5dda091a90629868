"""Families that transformers has no class for: 1bitLLM's BitNet, and MiniCPM by mlx-lm's model."""

import json

import numpy as np
import pytest
import torch
from mlx_folders import logits_of_mlx
from safetensors.torch import load_file, save_file
from small_checkpoints import ONLINE

import bitnet_jit
from bitnet_jit.checkpoints.formats.hf_names import IN_BLOCK, ONE_BIT_LLM
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import Multipliers

IDS = torch.tensor([list(b"In the beginning God created the heaven")])
MINI = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "rms_norm_eps": 1e-6, "rope_theta": 1e4}


def test_one_bit_llm_is_bitnet_with_silu(write_checkpoint, make_twin):
    folder = write_checkpoint(ONLINE, "bitnet", hidden_act="silu", dtype=torch.float32)
    with torch.no_grad():
        expected = make_twin(folder)(IDS).logits
    tensors = load_file(folder / "model.safetensors")
    for part, name in ONE_BIT_LLM.items():
        tensors = {key.replace(IN_BLOCK[part], name): tensor for key, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    said = {"model_type": "llama", "architectures": ["BitnetForCausalLM"], "weight_bits": 1, "input_bits": 8}
    (folder / "config.json").write_text(json.dumps(config | said))
    decoder = bitnet_jit.load(folder)
    difference = (decoder(IDS) - expected).abs() / expected.std()
    assert difference.mean() < 0.02
    assert difference.max() < 0.3
    with pytest.raises(InvalidInput, match="no model_type of transformers has activation='silu', sub_norms=True"):
        bitnet_jit.save(decoder, folder / "again")


@pytest.fixture
def mini(write_checkpoint):
    """Return a function that writes a MiniCPM of floats that are ternary."""
    return lambda size=32, **fields: write_checkpoint({"group_size": size}, "minicpm", **MINI | fields)


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4, "scale_emb": 2.5}])
def test_minicpm_is_that_of_mlx_lm(mini, fields):
    folder = mini(**fields)
    expected = logits_of_mlx(folder, IDS[0].tolist())
    decoder = bitnet_jit.load(folder)
    assert decoder.config.multipliers == Multipliers()
    assert np.abs(decoder(IDS)[0].numpy() - expected).max() < 2e-4 * np.abs(expected).max()


def test_a_tied_minicpm_multiplies_its_embedding_alone(mini):
    """mlx-lm leaves the divisor of a tied head out; so the untied one with the same numbers is the oracle."""
    folder = mini(tie_word_embeddings=True)
    decoder = bitnet_jit.load(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    torch.testing.assert_close(decoder(IDS), bitnet_jit.load(folder)(IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["scale_emb", "scale_depth", "dim_model_base"])
def test_a_constant_that_is_missing_is_named(mini, name):
    with pytest.raises(CheckpointError, match=f"{name}: expected a positive number, found None"):
        bitnet_jit.load(mini(**{name: None}))


def test_minicpm_through_gguf_and_back(mini, tmp_path):
    longrope = {"rope_type": "longrope", "short_factor": [1.0 + n / 4 for n in range(8)], "long_factor": [2.0] * 8}
    folder = mini(64, intermediate_size=128, rope_scaling=longrope | {"original_max_position_embeddings": 64})
    result = bitnet_jit.convert_checkpoint(folder, tmp_path / "a.gguf", "q2_0", lossy=True, verify=True)
    assert result.verification.different == ()
    assert result.verification.largest_difference < 0.01
    assert result.source == "a folder of Hugging Face, floats that are ternary times scales"
