"""Layers that run with float activations: formats say so, or refuse them, or report that they became int8."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import MULTIPLIER

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.checkpoints.decoder_layers import ternary_layers
from bitnet_jit.checkpoints.decoder_tensors import block_layers
from bitnet_jit.checkpoints.formats.hf_names import hf_layer
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.packing.i2 import I2

IDS = torch.tensor([list(b"In the beginning")])
OURS, THEIRS = ("i2", "t5"), ("autobitlinear", "bitlinear")


@pytest.fixture
def floats(write_checkpoint, tmp_path):
    """Write a folder of floats that are ternary times one scale per weight: they run with float activations."""
    origin = write_checkpoint(MULTIPLIER, "qwen3", name="origin")
    tensors = load_file(origin / "model.safetensors")
    with make_reader(origin) as reader:
        for layer in ternary_layers(reader):
            weight, path = read_joint(reader, [layer]), hf_layer(layer.name)
            del tensors[f"{path}.weight_scale"]
            tensors[f"{path}.weight"] = I2.unpack(weight.w_packed, layer.in_features) * weight.w_scale
    folder = tmp_path / "floats"
    folder.mkdir()
    said = json.loads((origin / "config.json").read_text())
    del said["quantization_config"]
    (folder / "config.json").write_text(json.dumps(said))
    save_file(tensors, folder / "model.safetensors")
    return folder


def activations(path):
    return {layer.activation for block in bitnet_jit.load(path).blocks for layer in block_layers(block)}


@pytest.mark.parametrize("format", OURS)
def test_our_formats_keep_float_activations(floats, tmp_path, format):
    assert activations(floats) == {"a16"}
    result = convert_checkpoint(floats, tmp_path / "made", format, verify=True)
    assert (result.integers, result.verification.different, result.verification.largest_difference) == ((), (), 0)
    decoder = bitnet_jit.load(floats)
    bitnet_jit.save(decoder, tmp_path / "saved", format)
    for folder in ("made", "saved"):
        assert activations(tmp_path / folder) == {"a16"}
        assert torch.equal(bitnet_jit.load(tmp_path / folder)(IDS), decoder(IDS))
    convert_checkpoint(tmp_path / "made", tmp_path / "again", OURS[format == "i2"])
    assert activations(tmp_path / "again") == {"a16"}


@pytest.mark.parametrize("format", THEIRS)
def test_others_make_them_int8_only_where_it_is_asked_for(floats, tmp_path, format):
    words = (
        f"model.layers.0.self_attn.q_proj: format {format!r} would run it with activation='a8', it was made for 'a16'"
    )
    with pytest.raises(InvalidInput, match=f"{words}; pass lossy=True .--lossy., or use i2 or t5"):
        convert_checkpoint(floats, tmp_path / "made", format)
    with pytest.raises(InvalidInput, match=f"{words}; use i2 or t5"):
        bitnet_jit.save(bitnet_jit.load(floats), tmp_path / "made", format)
    assert not (tmp_path / "made").exists()
    result = convert_checkpoint(floats, tmp_path / "made", format, lossy=True, verify=True)
    assert len(result.integers) == 14
    assert result.verification.different == ()
    assert result.verification.largest_difference > 0
    assert activations(tmp_path / "made") == {"a8"}


def test_a_folder_for_int8_stays_one(floats, tmp_path):
    for format in OURS:
        result = convert_checkpoint(tmp_path / "origin", tmp_path / format, format, lossy=True)
        assert (result.integers, activations(tmp_path / format)) == ((), {"a8"})


def test_layers_that_run_differently_are_refused(floats, tmp_path):
    decoder = bitnet_jit.load(floats)
    decoder.blocks[1].feed_forward.down.activation = "a8"
    words = "layers.1.mlp.down_proj: format 't5' would run it with activation='a16', it was made for 'a8'; one"
    with pytest.raises(InvalidInput, match=words):
        bitnet_jit.save(decoder, tmp_path / "made", "t5")


def test_an_activation_that_is_not_known_is_told(floats, tmp_path):
    convert_checkpoint(floats, tmp_path / "made", "i2")
    path = tmp_path / "made" / "model.safetensors"
    content = path.read_bytes()
    assert content.count(b'"a16"') == 1
    path.write_bytes(content.replace(b'"a16"', b'"a17"'))
    with pytest.raises(CheckpointError, match="expected activation 'a8' in the file's metadata, found 'a17'"):
        bitnet_jit.load(tmp_path / "made")
