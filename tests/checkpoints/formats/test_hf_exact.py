"""Floats that are ternary already: packed as they are, or refused."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_checkpoints import EXACT

import bitnet_jit
from bitnet_jit.checkpoints.formats.hf_exact import merged
from bitnet_jit.errors import CheckpointError


@pytest.mark.parametrize(("size", "expected"), [(32, 32), (64, 64), (96, 0)])
def test_weights_are_those_of_the_file(write_checkpoint, size, expected):
    """One group per row is a scale per row."""
    folder = write_checkpoint({"group_size": size}, "llama", hidden_size=192, intermediate_size=96 * (1 + (size < 96)))
    layer = bitnet_jit.load(folder).blocks[1].feed_forward.down
    stored = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].float()
    assert (layer.activation, layer.group_size) == ("a16", expected)
    assert torch.equal(layer.dequantize().float(), stored)


def test_a_plain_model_is_refused(write_checkpoint):
    folder = write_checkpoint(
        {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    with pytest.raises(
        CheckpointError, match=r"q_proj.weight: expected weights that are -1, 0 or 1 .*, found 100.0% of"
    ):
        bitnet_jit.load(folder)


def test_a_weight_that_is_not_quite_ternary_is_named(write_checkpoint):
    folder = write_checkpoint(EXACT, "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][5, 3] *= 1.5
    tensors["model.layers.1.mlp.up_proj.weight"][5, 4] = 7
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight: expected weights .*, found 0.5% of"):
        bitnet_jit.load(folder)


@given(
    size=st.sampled_from([32, 64, 128, 256]),
    groups=st.integers(2, 5),
    rest=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_are_the_widest_that_hold(size, groups, rest, seed):
    inputs = size * groups - 32 * min(rest, size // 32 - 1)
    scales = 1 + torch.randperm(3 * groups, generator=torch.Generator().manual_seed(seed)).float().view(3, groups)
    finest = scales.repeat_interleave(size // 32, 1)[:, : inputs // 32]
    finest[:, 1::2] *= (torch.rand(finest[:, 1::2].shape, generator=torch.Generator().manual_seed(seed)) < 0.7) | (
        size == 32
    )
    coarse, group_size = merged(finest, inputs)
    assert group_size == size
    assert torch.equal(coarse, scales)
