"""Qwen3.5 as folders of mlx-lm: what we write, mlx-lm computes as we do, and our reader finds the same model in it."""

import json

import numpy as np
import pytest
import torch
from gguf_files import Q2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_folders import logits_of_mlx
from qwen35_mlx import as_prism_mlx
from qwen35_models import as_gguf, folded_names, random_model
from safetensors.torch import load_file

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.hf_rope import share_of
from bitnet_jit.checkpoints.formats.intervals import every_nth, interval_of
from bitnet_jit.checkpoints.formats.prism_mlx import check_modules
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.errors import InvalidInput

MODELS = {
    "as it is": {},
    "every second layer attends, a fifth one more": {
        "num_hidden_layers": 5,
        "layer_types": ["linear_attention", "full_attention"] * 2 + ["linear_attention"],
    },
    "three taps, four heads of values a key": {"linear_conv_kernel_dim": 3, "linear_num_value_heads": 8},
    "half of a head turns, tied, biases": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": True,
        "attention_bias": True,
    },
}
BLOCKED = {"hidden_size": 256, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
WIDE = {"hidden_size": 512, "intermediate_size": 512, "head_dim": 128, "linear_value_head_dim": 128}
WIDE |= {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
IDS = list(b"In the beginning")


def assert_same_model(source, folder, near):
    """Convert a model, and compare it with what was written, and that with mlx-lm's own logits."""
    result = convert_checkpoint(source, folder, "mlx", verify=True)
    assert (result.moved, result.floats, result.verification.different) == ({}, (), ())
    assert result.verification.largest_scale == 0
    assert result.verification.largest_difference < 1e-5, "sums of groups of other sizes"
    logits = bitnet_jit.load(folder)(torch.tensor([IDS]))[0].numpy()
    expected = logits_of_mlx(folder, IDS)
    assert np.abs(logits - expected).max() < near * expected.std()


@pytest.mark.parametrize("model", MODELS)
def test_mlx_lm_reads_what_is_written_for_it(tmp_path, model):
    random_model(**MODELS[model]).save_pretrained(tmp_path / "model")
    assert_same_model(tmp_path / "model", tmp_path / "mlx", 1e-4)
    assert make_reader(tmp_path / "mlx").config == make_reader(tmp_path / "model").config
    tensors = load_file(tmp_path / "mlx" / "model.safetensors")
    assert tensors["language_model.model.layers.0.linear_attn.in_proj_b.weight"].is_floating_point()
    assert tensors["language_model.model.layers.0.linear_attn.conv1d.weight"].shape[2] == 1
    convert_checkpoint(tmp_path / "mlx", tmp_path / "again", "mlx")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_a_gguf_file_becomes_a_folder(tmp_path):
    source = as_gguf(random_model(group=64, **BLOCKED), tmp_path / "model.gguf", Q2_0, 64)
    assert_same_model(source, tmp_path / "mlx", 1e-4)


def test_bfloat16_stays_where_it_holds_the_numbers(tmp_path):
    random_model().bfloat16().save_pretrained(tmp_path / "model")
    convert_checkpoint(tmp_path / "model", tmp_path / "mlx", "mlx", lossy=True)
    tensors = load_file(tmp_path / "mlx" / "model.safetensors")
    part = "language_model.model.layers.0."
    assert tensors[f"{part}linear_attn.conv1d.weight"].dtype == torch.bfloat16
    assert tensors[f"{part}linear_attn.in_proj_a.weight"].dtype == torch.bfloat16
    assert tensors[f"{part}input_layernorm.weight"].dtype == torch.float32


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    """Write a folder of mlx-lm whose layers rotate their inputs."""
    return as_prism_mlx(random_model(group=128, **WIDE), tmp_path_factory.mktemp("prism") / "mlx", 512)


def test_a_rotated_folder_is_written_as_one(rotated, tmp_path):
    assert_same_model(rotated, tmp_path / "mlx", 0.02)
    said, expected = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "mlx", rotated))
    by_path = [sorted(of["modules"], key=lambda module: module["path"]) for of in (said, expected)]
    assert by_path[0] == by_path[1]
    tensors, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "mlx", rotated))
    assert tensors.keys() == before.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor.float() if tensor.is_floating_point() else tensor, before[name].to(tensor.dtype))
    with pytest.raises(InvalidInput, match="one scale per weight hold no model with a gated DeltaNet.*q2_0.*or to mlx"):
        convert_checkpoint(rotated, tmp_path / "i2", "i2")


def folded(tmp_path, block, **changes):
    """Write a GGUF file whose layers are folded, and return its place."""
    model = random_model(group=128, **WIDE | changes)
    keys = {
        "version": 1,
        "block_size": block,
        "transform": "normalized-sylvester-walsh-hadamard",
        "axis": "input-last-dimension",
        "sign_mode": "identity",
        "weight_names": folded_names(model),
        "gdn_v_grouped": True,
    }
    rotation = {f"prism.hadamard.{key}": given for key, given in keys.items()}
    return as_gguf(model, tmp_path / "model.gguf", Q2_0, 64, grouped=True, **rotation)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folded_gguf_file_becomes_a_folder(tmp_path, tied):
    """The embedding stays floats there, and a tied one is written as a head, too."""
    source = folded(tmp_path, 512, tie_word_embeddings=tied)
    assert_same_model(source, tmp_path / "mlx", 0.02)
    read, config = make_reader(tmp_path / "mlx").config, make_reader(source).config
    assert not read.tied_embeddings
    assert (read.delta_net, read.eos_ids, read.norm_eps) == (config.delta_net, config.eos_ids, config.norm_eps)


def test_another_pattern_of_attention_is_refused(tmp_path):
    random_model(layer_types=["full_attention", "linear_attention"] * 2).save_pretrained(tmp_path / "model")
    with pytest.raises(InvalidInput, match="every n-th block attends, in this model others do; use q2_0"):
        convert_checkpoint(tmp_path / "model", tmp_path / "mlx", "mlx")
    assert not (tmp_path / "mlx").exists()


def test_rotations_that_mlx_lm_has_not_are_refused(tmp_path):
    source = folded(tmp_path, 128)
    with pytest.raises(InvalidInput, match=r"in blocks of 512, 1024, .*layers.0.* in blocks of 128; use q2_0"):
        convert_checkpoint(source, tmp_path / "mlx", "mlx")
    with pytest.raises(InvalidInput, match="no layer has a bias, here has one; use q2_0"):
        check_modules({"here": 0}, {"here": LinearName("q", 4, 512, True)})


def test_decays_move_only_where_it_is_asked_for(tmp_path):
    """A file may hold decays that are no exponentials of float32."""
    model = random_model(group=64, **BLOCKED)
    for layer in (0, 1, 2):
        model.model.layers[layer].linear_attn.A_log.data.uniform_(6, 7)
    source = as_gguf(model, tmp_path / "model.gguf", Q2_0, 64)
    content = source.read_bytes()
    decay = -model.model.layers[1].linear_attn.A_log.exp().detach()[[0, 2, 1, 3]]
    moved = torch.nextafter(decay, torch.zeros(4)).numpy().tobytes()
    assert content.count(decay.numpy().tobytes()) == 1
    source.write_bytes(content.replace(decay.numpy().tobytes(), moved))
    name = "language_model.model.layers.1.linear_attn.A_log"
    with pytest.raises(InvalidInput, match=rf"mlx-lm reads {name} by a function that moves .*; pass lossy=True"):
        convert_checkpoint(source, tmp_path / "mlx", "mlx")
    result = convert_checkpoint(source, tmp_path / "mlx", "mlx", lossy=True, verify=True)
    assert list(result.moved) == [name]
    assert result.verification.different == ("blocks.1.delta_net.decay",)
    assert result.verification.largest_difference < 1e-4


@given(interval=st.integers(1, 9), layers=st.integers(1, 40))
def test_intervals_are_recognized(interval, layers):
    attends = every_nth(interval, layers)
    if any(attends):
        assert interval_of(attends) == interval
        assert interval_of((*attends, not every_nth(interval, layers + 1)[-1])) is None


@settings(max_examples=200)
@given(head_dim=st.integers(1, 2**10).map(lambda half: 2 * half), data=st.data())
def test_shares_of_a_head_come_back(head_dim, data):
    rotated_dims = 2 * data.draw(st.integers(1, head_dim // 2))
    share = share_of(rotated_dims, head_dim)
    assert int(head_dim * share) == rotated_dims
    assert 0 < share <= 1
