"""Folders are written tensor by tensor: what memory it takes, what is told meanwhile, what an interruption leaves."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import MULTIPLIER

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors, write_tensors
from bitnet_jit.errors import InvalidInput, WriteError

FOLDERS = ("autobitlinear", "bitlinear", "i2", "t5", "mlx")
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 2}
LARGEST = 8192 * 512 * 4  # bytes of the embedding, and of the head
LARGE = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 32}
SLACK = 12 * 2**20  # of allocators, and of what Python imports meanwhile
MEASURE = """
import resource, sys
from bitnet_jit import convert_checkpoint
small, large, target, format = sys.argv[1:]
convert_checkpoint(small, target + "-small", format, lossy=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_checkpoint(large, target, format, lossy=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
def test_memory_is_that_of_the_largest_tensor_twice(write_checkpoint, tmp_path):
    fields = {**LARGE, "head_dim": 128}
    large = write_checkpoint(MULTIPLIER, "llama", torch.float32, name="large", **fields)
    small = write_checkpoint(MULTIPLIER, "llama", torch.float32, name="small", **WIDE)
    assert os.path.getsize(large / "model.safetensors") > 3.5 * LARGEST
    for format in ("autobitlinear", "mlx"):
        command = [sys.executable, "-c", MEASURE, str(small), str(large), str(tmp_path / format), format]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert grown < 2 * LARGEST + SLACK, f"{format}: {grown / LARGEST:.2f} times the largest tensor"


@pytest.mark.parametrize("format", [*FOLDERS, "i2_s"])
def test_each_tensor_is_told(write_checkpoint, tmp_path, format):
    origin, told = write_checkpoint(MULTIPLIER, "llama", **WIDE), []
    convert_checkpoint(origin, tmp_path / "made", format, lossy=True, progress=lambda *counts: told.append(counts))
    total = told[0][1]
    assert told == [(count, total) for count in range(1, total + 1)]
    assert total == 3 + 2 * (2 + 7)


@pytest.mark.parametrize("format", FOLDERS)
@pytest.mark.parametrize("older", [False, True])
def test_an_interruption_leaves_nothing_half_written(write_checkpoint, tmp_path, format, older):
    origin, place = write_checkpoint(MULTIPLIER, "llama", **WIDE), tmp_path / "made"
    if older:
        convert_checkpoint(origin, place, "i2")
    before = {path.name: path.read_bytes() for path in place.iterdir()} if older else {}

    def interrupt(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(origin, place, format, lossy=True, progress=interrupt)
    assert ({path.name: path.read_bytes() for path in place.iterdir()} if older else {}) == before
    assert place.exists() == older


@pytest.mark.parametrize("format", ["t5", "mlx"])
def test_a_full_disk_leaves_nothing_half_written(write_checkpoint, tmp_path, monkeypatch, format):
    origin, place = write_checkpoint(MULTIPLIER, "llama", **WIDE), tmp_path / "made"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="made cannot be written .*No space left"):
        convert_checkpoint(origin, place, format, lossy=True)
    assert not place.exists()


@pytest.mark.parametrize("format", ["bitlinear", "t5"])
def test_the_files_are_those_of_save(tiny, tmp_path, format):
    bitnet_jit.save(tiny, tmp_path / "saved", format)
    convert_checkpoint(bitnet_jit.embedded_model(), tmp_path / "made", format)
    saved, made = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "made"))
    assert saved.keys() == made.keys()
    assert all(torch.equal(saved[name], made[name]) and saved[name].dtype == made[name].dtype for name in saved)
    assert (tmp_path / "saved" / "config.json").read_bytes() == (tmp_path / "made" / "config.json").read_bytes()


def test_multipliers_are_in_what_is_written(write_checkpoint, tmp_path):
    fields = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 16}
    origin = write_checkpoint(MULTIPLIER, "minicpm", **WIDE, **fields)
    bitnet_jit.save(bitnet_jit.load(origin), tmp_path / "saved", "i2")
    result = convert_checkpoint(origin, tmp_path / "made", "i2")
    assert result.num_bytes > 0
    saved, made = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "made"))
    assert saved.keys() == made.keys()
    assert all(torch.equal(saved[name], made[name]) for name in saved)


def test_what_a_folder_does_not_hold_is_named(write_checkpoint, tmp_path):
    origin = write_checkpoint({"group_size": 64}, "llama", **WIDE)
    with pytest.raises(InvalidInput, match=r"layers.0.self_attn.q_proj: this format holds layers with one scale"):
        convert_checkpoint(origin, tmp_path / "made", "t5")
    assert not (tmp_path / "made").exists()


def test_a_file_is_that_of_the_library(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "wide": torch.randn(5, dtype=torch.float64),
        "half": torch.randn(3, 7).bfloat16(),
        "turned": torch.randn(4, 6).T,
        "empty": torch.empty(0, 4),
    }
    planned = [
        PlannedTensors({name: (t.dtype, tuple(t.shape))}, lambda t=t, name=name: {name: t})
        for name, t in tensors.items()
    ]
    write_tensors(tmp_path / "ours", planned, {"format": "pt", "é": "\n"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert ours.keys() == theirs.keys()
