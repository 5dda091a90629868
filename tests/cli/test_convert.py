"""`bitnet-jit convert`: a model from file to file, and what is said of it."""

import pytest
from typer.testing import CliRunner

import bitnet_jit
from bitnet_jit.cli.app import app


def run(*arguments):
    """Run the command; return its result."""
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_a_model_is_converted_and_compared(tmp_path):
    result = run(bitnet_jit.embedded_model(), tmp_path / "a.gguf", "--to", "q2_0", "--lossy", "--verify")
    assert result.exit_code == 0, result.output
    source, written, rounded, compared = result.stdout.splitlines()
    assert source == "found    a folder of Hugging Face, ours, t5"
    assert written.endswith("a.gguf (3.1 MB, q2_0)")
    assert rounded == "rounded  the numbers of 42 tensors, by up to 4.1e-04 of them (blk.1.attn_output.weight)"
    assert compared.startswith("compared 9437184 codes, 0 tensors differ; scales differ by up to 4.1e-04 of them")
    again = run(tmp_path / "a.gguf", tmp_path / "folder", "--to", "t5", "--verify")
    assert "found    a GGUF file, bitnet-b1.58 in Q2_0" in again.output
    assert "scales differ by up to 0.0e+00 of them, logits by up to 0.0e+00" in again.output


def test_models_that_differ_end_the_command_with_1(tmp_path, monkeypatch):
    from bitnet_jit.checkpoints import converting
    from bitnet_jit.checkpoints.verifying import Verification

    monkeypatch.setattr(converting, "verify_same", lambda *_: Verification(8, ("blocks.0.attention.q",), 0.5, 2.0))
    result = run(bitnet_jit.embedded_model(), tmp_path / "a.gguf", "--to", "i2_s", "--verify")
    assert result.exit_code == 1
    assert "differ   blocks.0.attention.q" in result.stderr


@pytest.mark.parametrize(
    ("target", "format", "words"),
    [
        ("a.gguf", "q2_0", "pass lossy=True"),
        ("a.gguf", "q9", "format: expected one of tq1_0"),
        (".", "i2_s", "expected a file"),
    ],
)
def test_what_cannot_be_is_an_error(tmp_path, monkeypatch, target, format, words):
    monkeypatch.chdir(tmp_path)
    result = run(bitnet_jit.embedded_model(), target, "--to", format)
    assert words in str(result.exception)
    assert list(tmp_path.iterdir()) == []
