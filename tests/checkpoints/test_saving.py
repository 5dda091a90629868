"""`load` reads the files of `save`: every format, every bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit.checkpoints.formats.own_packing import to_i2
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.packing import FORMATS
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

CONFIG = TrainSettings(
    layers=2, hidden_size=36, intermediate_size=44, heads=3, kv_heads=1, context_length=32, window=32
).decoder()
QWEN3 = replace(CONFIG, activation="silu", sub_norms=False, qk_norms=True, head_dim=20)
IDS = torch.arange(60, 84)[None]


def assert_same_weights(a, b):
    for (name, one), (other_name, other) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name


@pytest.mark.parametrize("format", ["autobitlinear", "i2", "t5"])
@pytest.mark.parametrize("model_type", ["bitnet", "llama", "qwen3"])
def test_a_decoder_is_saved_as_it_was_loaded(write_checkpoint, tmp_path, format, model_type):
    decoder = bitnet_jit.load(write_checkpoint(model_type=model_type))
    bitnet_jit.save(decoder, tmp_path / "again", format)
    assert_same_weights(decoder, bitnet_jit.load(tmp_path / "again"))


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "default": {"rope_theta": 777.0},
    "scaled": {"rope_theta": 777.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "scaled, by the oldest name": {"rope_scaling": {"type": "llama3", **LLAMA3}},
    "parameters": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 777.0, **LLAMA3}},
    "the original context outside": {
        "rope_scaling": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 99},
        "original_max_position_embeddings": 24,
    },
    "the original context nowhere": {
        "rope_scaling": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": None}
    },
}


@pytest.mark.parametrize("format", ["autobitlinear", "bitlinear", "i2", "t5"])
@pytest.mark.parametrize("model_type", ["bitnet", "llama", "qwen3"])
@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions_are_kept(write_checkpoint, tmp_path, format, model_type, rope):
    decoder = bitnet_jit.load(write_checkpoint(model_type=model_type, **ROPES[rope]))
    bitnet_jit.save(decoder, tmp_path / "again", format)
    again = bitnet_jit.load(tmp_path / "again")
    assert again.config == decoder.config
    assert torch.equal(again.rope.frequencies, decoder.rope.frequencies)


@pytest.mark.parametrize("format", ["i2", "t5"])
def test_biases_are_kept_bit_for_bit(write_checkpoint, tmp_path, format):
    decoder = bitnet_jit.load(write_checkpoint(model_type="llama", attention_bias=True, mlp_bias=True))
    bitnet_jit.save(decoder, tmp_path / "again", format)
    assert_same_weights(decoder, bitnet_jit.load(tmp_path / "again"))


@pytest.mark.parametrize("config", [CONFIG, QWEN3], ids=["bitnet", "qwen3"])
@pytest.mark.parametrize("format", ["autobitlinear", "i2", "t5"])
def test_a_trained_decoder_is_the_same_when_loaded(tmp_path, format, config):
    trained = TrainedDecoder(config, seed=2).eval()
    for name, parameter in trained.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    bitnet_jit.save(trained, tmp_path, format)
    loaded = bitnet_jit.load(tmp_path)
    bitnet_jit.save(loaded, tmp_path / "again", format)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, load_file(tmp_path / "again" / "model.safetensors")[name])
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS), trained(IDS), rtol=0, atol=1e-4)


def test_a_model_of_transformers_is_saved_and_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = bitnet_jit.convert(transformers.LlamaForCausalLM(config)).eval()
    ids = IDS % 64
    with torch.no_grad():
        wanted = model(ids).logits
    bitnet_jit.save(model, tmp_path / "hf")
    bitnet_jit.save(bitnet_jit.pack(model), tmp_path / "t5", "t5")
    for name in ("hf", "t5"):
        torch.testing.assert_close(bitnet_jit.load(tmp_path / name)(ids), wanted, rtol=0, atol=1e-4)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, wanted, rtol=0, atol=2e-2)


@pytest.fixture
def normed_llama():
    """Make a model of transformers whose ternary layers have norms inside."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = bitnet_jit.convert(transformers.LlamaForCausalLM(config), use_rms_norm=True, rms_norm_eps=1e-4).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.rms_norm.weight"):
                parameter.uniform_(0.5, 2.0)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler of transformers' quantizers
@pytest.mark.parametrize("format", ["autobitlinear", "bitlinear"])
def test_transformers_reads_norms_inside_layers(normed_llama, tmp_path, format):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        wanted = normed_llama(IDS % 64).logits
        bitnet_jit.save(normed_llama, tmp_path, format)
        said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
        assert (said["use_rms_norm"], said["rms_norm_eps"]) == (True, 1e-4)
        read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(read(IDS % 64).logits, wanted, rtol=0, atol=2e-2)
        patched = bitnet_jit.patch(read)
        torch.testing.assert_close(patched(IDS % 64).logits, wanted, rtol=0, atol=1e-4)
        # and it is saved from there as it was
        bitnet_jit.save(patched, tmp_path / "again", format)
    first, again = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first if "weight_scale" not in name)


def test_norms_inside_layers_that_a_format_cannot_hold_are_refused(normed_llama, tmp_path):
    with pytest.raises(InvalidInput, match="model: format 't5' cannot hold the norms inside its layers"):
        bitnet_jit.save(normed_llama, tmp_path, "t5")
    normed_llama.model.layers[0].mlp.up_proj.rms_norm.eps = 1e-3
    with pytest.raises(InvalidInput, match=r"one eps, found 0\.0001, 0\.001"):
        bitnet_jit.save(normed_llama, tmp_path)
    del normed_llama.model.layers[0].mlp.up_proj.rms_norm
    with pytest.raises(InvalidInput, match=r"one eps, found 0\.0001, None"):
        bitnet_jit.save(normed_llama, tmp_path)
    assert not list(tmp_path.iterdir())


@given(st.data(), st.integers(1, 7), st.integers(1, 67), st.sampled_from(sorted(FORMATS)))
def test_our_packings_become_i2(data, rows, columns, packing):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = torch.from_numpy(rng.integers(-1, 2, (rows, columns)).astype(np.int8))
    out = torch.full(FORMATS["i2"].packed_shape(rows, columns), 0xFF, dtype=torch.uint8)
    to_i2(FORMATS[packing].pack(codes), out, columns, packing)
    assert torch.equal(out, FORMATS["i2"].pack(codes))


def change(directory, metadata=None, **tensors):
    """Write a saved model's file again, with other tensors or metadata; a metadata of None is left out."""
    file = directory / "model.safetensors"
    with safe_open(file, "pt") as opened:
        said = {**opened.metadata(), **(metadata or {})}
    save_file({**load_file(file), **tensors}, file, {key: value for key, value in said.items() if value is not None})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"bitnet_jit": "2"}, "q_proj.weight: expected format version '1' in the file's metadata, found '2'"),
        ({"bitnet_jit": None}, "expected format version '1' in the file's metadata, found None"),
        ({"packing": "i2"}, "expected packing 't5' in the file's metadata, found 'i2'"),
        ({"scale": "row"}, "expected scale 'tensor' .* found 'row'"),
        ({"activation": "a4"}, "expected activation 'a8' .* found 'a4'"),
        ({"shapes": "{}"}, r"expected the shape \[36, 36\] in the file's metadata, found None"),
        ({"shapes": "[1]"}, r"expected the shape \[36, 36\] in the file's metadata, found None"),
        ({"shapes": "{"}, r"expected the shape \[36, 36\] in the file's metadata, found None"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, metadata, words):
    bitnet_jit.save(TrainedDecoder(CONFIG), tmp_path, "t5")
    change(tmp_path, metadata)
    with pytest.raises(CheckpointError, match=words):
        bitnet_jit.load(tmp_path)


def test_bytes_that_are_no_codes_are_refused(tmp_path):
    bitnet_jit.save(TrainedDecoder(CONFIG), tmp_path, "t5")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(tmp_path / "model.safetensors")[name]
    weight[3, 2] = 243
    change(tmp_path, **{name: weight})
    with pytest.raises(CheckpointError, match=f"{name}: expected codes 0, 1 and 2, found the code 3 in 5 places"):
        bitnet_jit.load(tmp_path)


def test_a_model_that_cannot_be_saved_leaves_the_folder_as_it_was(tmp_path):
    bitnet_jit.save(TrainedDecoder(CONFIG), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InvalidInput, match="format: expected one of autobitlinear, bitlinear, i2, t5, got 'gguf'"):
        bitnet_jit.save(TrainedDecoder(CONFIG), tmp_path, "gguf")
    with pytest.raises(InvalidInput, match="format: .* got 'gguf'"):
        bitnet_jit.save(bitnet_jit.load(tmp_path), tmp_path, "gguf")
    with pytest.raises(InvalidInput, match="model: expected a Decoder, .* got Sequential"):
        bitnet_jit.save(torch.nn.Sequential(bitnet_jit.BitLinear(4, 4)), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_are_readable_by_others(tmp_path):
    bitnet_jit.save(TrainedDecoder(CONFIG), tmp_path)
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "bitnet"
