"""Models from format to format: the same codes and scales through every pair, or a refusal that names the tensor."""

import json
import os
from itertools import product

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from gguf_models import assert_same_weights
from mlx_folders import as_mlx, logits_of_mlx
from small_checkpoints import MULTIPLIER
from tokenizer_files import KINDS as TOKENIZERS
from tokenizers import Tokenizer

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.checkpoints.chat_template import template_of
from bitnet_jit.checkpoints.converting import check_apart
from bitnet_jit.checkpoints.formats.gguf.target import NAMES
from bitnet_jit.errors import CheckpointError, InvalidInput, WriteError

WIDE = {"hidden_size": 512, "intermediate_size": 768, "head_dim": 128, "num_hidden_layers": 1}
FOLDERS = ("autobitlinear", "bitlinear", "i2", "t5")
MODELS = ("bitnet", "llama", "qwen3")


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("format", [*NAMES, *FOLDERS])
def test_every_format_holds_the_model(write_checkpoint, tmp_path, model_type, format):
    origin = write_checkpoint(MULTIPLIER, model_type, attention_bias=model_type == "llama", **WIDE)
    result = convert_checkpoint(origin, tmp_path / "made", format, lossy=True, verify=True)
    assert result.verification.different == ()
    assert result.verification.largest_scale < 2**-11
    assert result.source == "a folder of Hugging Face, 2 bits with a scale that multiplies"
    assert_same_weights(bitnet_jit.load(origin), bitnet_jit.load(tmp_path / "made"))
    assert result.verification.largest_difference < 0.1, "activations are what they were, too"


PAIRS = [*product(("i2_s", "autobitlinear", "t5"), ("i2_s", "bitlinear", "i2"))]
ONCE = [("i2_s", "bitlinear"), ("autobitlinear", "i2"), ("t5", "i2_s")]  # each format is in one of them
MORE = [pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in PAIRS if pair not in ONCE]


@pytest.mark.parametrize(("first", "second"), [*ONCE, *MORE])
def test_there_and_back_through_pairs(tiny, tmp_path, first, second):
    convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "first", first)
    convert_checkpoint(tmp_path / "first", tmp_path / "second", second)
    convert_checkpoint(tmp_path / "second", tmp_path / "third", first)
    assert_same_weights(tiny, bitnet_jit.load(tmp_path / "third"))
    again = bitnet_jit.load(tmp_path / "third")
    assert again.tokenizer.encode("né") == list("né".encode())


@pytest.mark.parametrize("format", ["tq1_0", "tq2_0"])
def test_ggml_reads_the_numbers(write_checkpoint, tmp_path, format):
    origin = write_checkpoint(MULTIPLIER, "llama", **WIDE)
    convert_checkpoint(origin, tmp_path / "made.gguf", format, lossy=True)
    decoder = bitnet_jit.load(tmp_path / "made.gguf")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "made.gguf").tensors}
    down = tensors["blk.0.ffn_down.weight"]
    numbers = dequantize(down.data, down.tensor_type)
    assert np.array_equal(numbers, decoder.blocks[0].feed_forward.down.dequantize().float().numpy())
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


@pytest.mark.parametrize(("format", "group_size"), [("q2_0", 64), ("pq2_0", 128), ("ptq1_0", 128), ("tq2_0", 256)])
def test_scales_of_groups_stay(write_checkpoint, tmp_path, format, group_size):
    origin = write_checkpoint({"group_size": group_size}, "qwen3", torch.float16, **WIDE)
    result = convert_checkpoint(origin, tmp_path / "made.gguf", format, verify=True)
    assert result.moved == {}
    assert result.verification.largest_scale == 0
    assert result.verification.largest_difference < 1e-5
    assert bitnet_jit.load(tmp_path / "made.gguf").blocks[0].feed_forward.down.group_size == group_size


def test_a_folder_of_mlx_becomes_a_file(write_checkpoint, tmp_path):
    floats = write_checkpoint({"group_size": 64}, "qwen3", **WIDE)
    folder = as_mlx(floats, tmp_path / "mlx", 64, tables=2)
    result = convert_checkpoint(folder, tmp_path / "made.gguf", "q2_0", verify=True)
    assert result.verification.different == ()
    assert result.verification.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("format", "group_size", "fields", "words"),
    [
        ("i2_s", 64, {}, r"I2_S holds one scale per tensor, blk.0.attn_q.weight has \d+"),
        ("tq2_0", 64, {}, "a scale per 256 inputs, blk.0.attn_q.weight has one per 64"),
        (
            "pq2_0",
            64,
            {"hidden_size": 192, "intermediate_size": 192},
            "inputs in multiples of 128, .*attention.q has 192",
        ),
    ],
)
def test_what_a_format_does_not_hold_is_named(write_checkpoint, tmp_path, format, group_size, fields, words):
    origin = write_checkpoint({"group_size": group_size}, "llama", **WIDE | fields)
    with pytest.raises(InvalidInput, match=f"format: .*{words}"):
        convert_checkpoint(origin, tmp_path / "made.gguf", format)
    assert list(tmp_path.iterdir()) == [origin]


def test_scales_are_rounded_only_where_it_is_asked_for(tmp_path):
    with pytest.raises(InvalidInput, match=r"moves those of blk.0.attn_q.weight by up to 3.6e-04 of them; pass lossy"):
        convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "made.gguf", "q2_0")
    moved = convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "made.gguf", "q2_0", lossy=True).moved
    assert len(moved) == 42
    assert 3e-4 < moved["blk.0.attn_q.weight"] < 2**-11


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_come_along(write_checkpoint, tmp_path, kind, caplog):
    origin = write_checkpoint(MULTIPLIER, "llama", vocab_size=400, **WIDE)
    library = kind()
    library.save(str(origin / "tokenizer.json"))
    said = {"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": "<s>"}
    (origin / "tokenizer_config.json").write_text(json.dumps(said))
    convert_checkpoint(origin, tmp_path / "made.gguf", "i2_s")
    read, ours = bitnet_jit.load(tmp_path / "made.gguf").tokenizer, bitnet_jit.load(origin).tokenizer
    if read is None:
        assert "GGUF has no name for" in caplog.text
        return
    texts = ["hello the world", "The  end."]
    if kind.__name__ != "metaspace":  # which puts a space before a text alone, and not before one that is there
        texts += ["he then <s> the", " hello"]
    for text in texts:
        ids = ours.encode(text)
        assert read.encode(text) == ids
        assert read.decode(ids) == ours.decode(ids)
    assert template_of(tmp_path / "made.gguf").source == said["chat_template"]
    convert_checkpoint(tmp_path / "made.gguf", tmp_path / "back", "i2")
    assert bitnet_jit.load(tmp_path / "back").tokenizer.encode("hello the world") == ours.encode("hello the world")
    assert template_of(tmp_path / "back").source == said["chat_template"]
    assert Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json")).get_vocab_size() >= library.get_vocab_size()


@pytest.mark.parametrize("rope", ["linear", "llama3", "yarn"])
def test_rotary_scalings_come_along(write_checkpoint, tmp_path, rope):
    said = {"rope_type": rope, "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16}
    said |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if rope == "llama3" else {}
    origin = write_checkpoint(MULTIPLIER, "llama", rope_parameters=said, **WIDE)
    convert_checkpoint(origin, tmp_path / "made.gguf", "i2_s")
    expected, read = bitnet_jit.load(origin).rope, bitnet_jit.load(tmp_path / "made.gguf").rope
    torch.testing.assert_close(read.frequencies, expected.frequencies, rtol=1e-6, atol=0)
    assert read.magnitude == pytest.approx(expected.magnitude, rel=1e-6)


def test_the_source_is_not_written_over(tiny, tmp_path):
    bitnet_jit.save(tiny, tmp_path / "model")
    for target, format in (("model", "i2"), ("model", "i2_s")):
        with pytest.raises(InvalidInput, match=r"target: .*model holds the source; choose another place"):
            convert_checkpoint(tmp_path / "model", tmp_path / target, format)
    convert_checkpoint(tmp_path / "model", tmp_path / "a.gguf", "i2_s")
    with pytest.raises(InvalidInput, match="holds the source"):
        convert_checkpoint(tmp_path / "a.gguf", tmp_path / "a.gguf", "i2_s")
    parts = [tmp_path / f"b-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes((tmp_path / "a.gguf").read_bytes())
    with pytest.raises(InvalidInput, match="b-00002-of-00002.gguf holds the source"):
        check_apart(parts[0], parts[1], True)
    with pytest.raises(InvalidInput, match="expected a file, got the folder .*; add a name such as model.gguf"):
        convert_checkpoint(tmp_path / "a.gguf", tmp_path / "model", "i2_s")
    with pytest.raises(InvalidInput, match="format: expected one of tq1_0, .*, got 'q4'"):
        convert_checkpoint(tmp_path / "a.gguf", tmp_path / "b", "q4")


def test_a_disk_that_is_full_leaves_the_older_file(tmp_path, monkeypatch):
    (tmp_path / "made.gguf").write_bytes(b"older")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="made.gguf cannot be written .*No space left"):
        convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "made.gguf", "i2_s")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("made.gguf", b"older")]


def test_floats_that_are_ternary_are_said(write_checkpoint, tmp_path):
    origin = write_checkpoint({"group_size": 64}, "llama", **WIDE)
    result = convert_checkpoint(origin, tmp_path / "a.gguf", "q2_0", lossy=True)
    assert result.source == "a folder of Hugging Face, floats that are ternary times scales"


@pytest.mark.parametrize(("model_type", "group_size"), [("llama", 128), ("qwen3", 64), ("qwen3", 32), ("qwen3", 256)])
def test_mlx_lm_reads_what_is_written_for_it(write_checkpoint, tmp_path, model_type, group_size):
    origin = write_checkpoint({"group_size": group_size}, model_type, rms_norm_eps=1e-6, rope_theta=1e4, **WIDE)
    result = convert_checkpoint(origin, tmp_path / "mlx", "mlx", verify=True)
    assert (result.moved, result.floats, result.verification.different) == ({}, (), ())
    assert result.verification.largest_scale == 0
    ids = list(b"In the beginning")
    logits = bitnet_jit.load(tmp_path / "mlx")(torch.tensor([ids]))[0].numpy()
    expected = logits_of_mlx(tmp_path / "mlx", ids)
    assert np.abs(logits - expected).max() < 2e-4 * np.abs(expected).max()


def test_activations_become_floats_only_where_it_is_asked_for(write_checkpoint, tmp_path):
    origin = write_checkpoint(MULTIPLIER, "llama", **WIDE)
    with pytest.raises(InvalidInput, match="layers.0.self_attn.q_proj was made for int8; pass lossy=True"):
        convert_checkpoint(origin, tmp_path / "mlx", "mlx")
    result = convert_checkpoint(origin, tmp_path / "mlx", "mlx", lossy=True, verify=True)
    assert len(result.floats) == 7
    assert result.verification.different == ()
    with pytest.raises(InvalidInput, match="mlx-lm reads BitNet's models as transformers does: use autobitlinear"):
        convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "bitnet", "mlx")


def test_a_width_that_mlx_has_no_groups_for_is_named(write_checkpoint, tmp_path):
    origin = write_checkpoint({"group_size": 48}, "llama", hidden_size=48, intermediate_size=48, head_dim=12)
    with pytest.raises(InvalidInput, match=r"MLX has a scale per 32, 64 or 128 inputs, which \(48, 48, 48\) are no"):
        convert_checkpoint(origin, tmp_path / "mlx", "mlx")


def test_two_models_in_a_folder_are_told(tiny, tmp_path, caplog):
    bitnet_jit.save(tiny, tmp_path / "both", "t5")
    for name in ("a", "b"):
        convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / f"{name}.gguf", "i2_s")
        (tmp_path / "both" / f"{name}.gguf").write_bytes(b"GGUF")
    bitnet_jit.load(tmp_path / "both")
    assert "both: its safetensors are read; to read a.gguf, b.gguf instead, name the file" in caplog.text
    with pytest.raises(CheckpointError, match="expected one GGUF file, found a.gguf, b.gguf: name one of them"):
        bitnet_jit.load(tmp_path)
