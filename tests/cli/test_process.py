"""Commands as a shell sees them: exit codes, both streams, Ctrl-C, a closed pipe, and how little `--help` imports."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

MAIN = "from bitnet_jit.cli import main; main()"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
        env=os.environ | environment,
    )


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from bitnet_jit.cli import main\n"
        "sys.argv = ['bitnet-jit', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numba', 'numpy', 'transformers', 'huggingface_hub'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("[]\n"), result.stdout + result.stderr
    for command in ("generate", "autotune", "info", "bench"):
        assert command in result.stdout


def test_text_on_stdout_and_the_rest_on_stderr():
    result = run("generate", "And it came to pass ", "--max-new-tokens", "10")
    assert result.returncode == 0
    assert result.stdout == "And it came to pass after the \n"
    assert "10 tokens, the first after" in result.stderr


def test_an_error_is_one_line():
    result = run("generate", "x", "--model", "/no/such/place")
    assert result.returncode == 1
    assert result.stdout == ""
    assert (
        result.stderr == "error: /no/such/place: expected a directory or a hub id such as owner/name, found neither\n"
    )


def test_wrong_usage_is_code_two():
    result = run("generate", "x", "--seed", "abc")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_terminal_without_the_characters():
    result = run("generate", "日", "--max-new-tokens", "3", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert result.stdout.startswith("?")


def test_a_warning_is_one_line(tmp_path):
    import json

    import bitnet_jit
    from bitnet_jit.checkpoints.embedded import embedded_model

    bitnet_jit.save(bitnet_jit.load(embedded_model()), tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet"}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    result = run("generate", "x", "--max-new-tokens", "1", "--model", str(tmp_path / "copy"))
    warnings = [line for line in result.stderr.splitlines() if "contradicts" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: the scale's sense contradicts its value: model.layers.0.self_attn.q_proj")


# a process that a shell starts in the background ignores Ctrl-C, and so do its children
HEEDING_CONTROL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


@contextmanager
def writing(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that writes a long text, and end it in any case."""
    command = [sys.executable, "-c", HEEDING_CONTROL_C + MAIN, "generate", "And it came to pass ", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child")
def test_control_c_ends_cleanly():
    with writing("--max-new-tokens", "1000") as process:
        assert process.stdout.read(30) == b"And it came to pass after the "
        process.send_signal(signal.SIGINT)
        text, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, f"{len(text)} bytes later: {stderr.decode()}"
        assert b"Traceback" not in stderr


def test_a_closed_pipe_ends_cleanly():
    with writing("--max-new-tokens", "1000") as process:
        assert process.stdout.read(25) == b"And it came to pass after"
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(timeout=60) == 1
