"""What `inspect` tells is what is in the files, also where they hold a model that we cannot run."""

import pytest
from gguf_files import F32, PQ2_0, write_gguf
from gguf_models import as_gguf, metadata_of, tensors_of
from mlx_folders import as_mlx
from typer.testing import CliRunner

import bitnet_jit
from bitnet_jit import inspect_checkpoint
from bitnet_jit.cli.app import app
from bitnet_jit.errors import CheckpointError


def test_the_embedded_model(tiny):
    seen = []
    result = inspect_checkpoint(bitnet_jit.embedded_model(), lambda done, total: seen.append((done, total)))
    assert (result.config, result.problem) == (tiny.config, "")
    assert result.description == "a folder of Hugging Face, ours, t5"
    assert seen == [(number, 42) for number in range(1, 43)]
    first = result.layers[0]
    assert (first.name, first.shape) == ("blocks.0.attention.q", (384, 384))
    assert (first.scale, first.activation) == ("tensor", "a8")
    w_q, w_scale = tiny.blocks[0].attention.qkv.unpack()
    assert first.density == pytest.approx(float((w_q[:384] != 0).float().mean()))
    assert first.scales == (float(w_scale[0]), float(w_scale[0]))
    assert (result.tokenizer, result.has_template) == ("ByteTokenizer", False)
    assert sum(result.bits.values()) == pytest.approx(1)
    assert max(result.bits, key=result.bits.get) == 8.0, "bytes of five codes count as numbers of eight bits"
    assert dict(result.kernels)["384 x 384, scale per tensor, a8"].startswith("numba.")


def test_groups_and_packed_tables(write_checkpoint, tmp_path):
    floats = write_checkpoint({"group_size": 32}, "qwen3", hidden_size=128, intermediate_size=256, head_dim=32)
    result = inspect_checkpoint(as_mlx(floats, tmp_path / "mlx", 32, tables=2))
    assert {row.scale for row in result.layers} == {"group of 32"}
    assert {row.activation for row in result.layers} == {"a16"}
    assert [row.name for row in result.layers[-2:]] == ["embedding", "head"]
    assert all(low < high for low, high in (row.scales for row in result.layers))


def test_bits_of_a_gguf_file(tiny, tmp_path):
    result = inspect_checkpoint(as_gguf(tiny, tmp_path / "a.gguf", "bitnet-b1.58", PQ2_0))
    assert min(result.bits) == 2.12  # 34 bytes per 128 weights
    assert result.bits[2.12] > 0.9
    assert {tensor.type for tensor in result.stored} == {"PQ2_0", "F32"}


@pytest.fixture
def unknown(tmp_path):
    """Write a file of an architecture that nobody knows."""
    tensors = {"a.weight": (F32, (2,), bytes(8)), "b.weight": (77, (4,), bytes(8))}
    return write_gguf(tmp_path / "a.gguf", {"general.architecture": "mamba"}, tensors)


def test_a_model_that_we_cannot_run_is_told_with_its_tensors(unknown):
    result = inspect_checkpoint(unknown)
    assert "general.architecture: expected 'bitnet-b1.58' or" in result.problem
    assert [(tensor.name, tensor.type) for tensor in result.stored] == [("a.weight", "F32"), ("b.weight", "type 77")]
    assert result.config is None


def test_a_layer_that_is_missing_is_the_problem(tiny, tmp_path):
    tensors = tensors_of(tiny, "bitnet-b1.58")
    del tensors["blk.3.ffn_up.weight"]
    result = inspect_checkpoint(write_gguf(tmp_path / "a.gguf", metadata_of(tiny, "bitnet-b1.58"), tensors))
    assert "blk.3.ffn_up.weight: expected codes" in result.problem


def test_files_that_are_none_are_an_error(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="expected a whole GGUF file"):
        inspect_checkpoint(tmp_path / "a.gguf")


def test_the_command(unknown, tiny, tmp_path):
    path = as_gguf(tiny, tmp_path / "tiny.gguf", "bitnet-b1.58", PQ2_0)
    result = CliRunner().invoke(app, ["inspect", str(path), "--tensors"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1] == "format    a GGUF file, bitnet-b1.58 in PQ2_0"
    assert lines[2].endswith("6 blocks, 384 wide, 1024 in the middle; 6 heads of 64 on 2; relu2, sub-norms")
    assert any(line.startswith("blocks.5.feed_forward.down") and line.endswith("tensor") for line in lines)
    assert any(line.startswith("    2.12  ") for line in lines)
    assert any(line.startswith("blk.0.attn_q.weight") for line in lines)
    result = CliRunner().invoke(app, ["inspect", str(unknown)])
    assert result.exit_code == 1
    assert "cannot be run:" in result.stderr
    assert "2 tensors" in result.stdout
