"""The command in odd surroundings: streams that are full, closed or narrow, devices that are not there."""

import os
import subprocess
import sys

import pytest

VERSE = "And it came to pass "
GENERATE = f"generate '{VERSE}' --max-new-tokens 10"
TEXT = "And it came to pass after the \n"
COMMAND = f"'{sys.executable}' -m bitnet_jit"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has another shell")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell, in which CMD is the command."""
    line = line.replace("CMD", COMMAND)
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=120, env=os.environ | environment)


def errors(result) -> list[str]:
    """Return the lines on stderr that tell of an error."""
    text = result.stderr.decode()
    assert "Traceback" not in text, text
    assert "Exception ignored" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [GENERATE, "--help", "--version"])
def test_a_full_stdout_is_one_line_and_code_one(arguments):
    result = shell(f"CMD {arguments} > /dev/full")
    assert result.returncode == 1
    assert errors(result) == ["error: cannot write: No space left on device"]


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_a_closed_stdout_is_one_line_and_code_one(arguments):
    result = shell(f"CMD {arguments} >&-")
    assert result.returncode == 1
    assert errors(result) == ["error: cannot write: Bad file descriptor"]


@pytest.mark.parametrize("closed", ["<&- 2>&-"])
def test_python_m_runs_the_command_and_a_stderr_that_nobody_reads_changes_nothing(closed):
    result = shell(f"CMD {GENERATE} {closed}")
    assert (result.returncode, result.stdout.decode(), errors(result)) == (0, TEXT, [])


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_an_error_that_nobody_reads_is_code_one(closed):
    result = shell(f"CMD autotune x --shape 4x4 {closed}")
    assert (result.returncode, result.stdout) == (1, b"")


def test_all_streams_closed():
    assert shell("CMD --version <&- >&- 2>&-").returncode == 1


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    result = shell(
        f"cd {tmp_path}; '{sys.executable}' -c \"import bitnet_jit.cli.streams as s; s.open_streams(); "
        "print(open('file', 'w').fileno(), file=open('number', 'w'))\" <&- >&- 2>&-"
    )
    assert result.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize("arguments", ["--help", "explain --rows x"])
def test_a_broken_pipe_is_quiet(arguments):
    result = shell(f"CMD {arguments} | head -c 1; exit ${{PIPESTATUS[0]}}")
    assert errors(result) == []
    assert result.returncode in (0, 1, 2)  # a short text may be written whole before the pipe closes


def test_a_broken_pipe_of_both_streams_is_quiet():
    result = shell("CMD explain --rows x 2>&1 | head -c 1")
    assert len(result.stdout) == 1
    assert errors(result) == []


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "caf? ?"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "", "NO_COLOR": "1", "TERM": "dumb"}, "caf\ufffd 日"),
    ],
)
def test_bytes_that_are_no_text_and_characters_that_cannot_be_shown(environment, shown):
    result = shell("CMD generate $'caf\\xe9 \\xe6\\x97\\xa5' --max-new-tokens 1 --stop $'\\xe9'", **environment)
    assert result.returncode == 0, result.stderr
    assert errors(result) == []
    assert result.stdout.decode("utf-8").startswith(shown)
    assert shell("CMD --help", **environment).returncode == 0


def test_a_name_that_is_no_text_is_refused_in_one_line():
    refused = shell("CMD generate x --model $'\\xe9'", PYTHONIOENCODING="ascii")
    assert refused.returncode == 1
    assert errors(refused) == ["error: '\\udce9': expected a directory or a hub id such as owner/name, found neither"]


DEVICES = ["cuda:99", "meta", "xla", "abacus", "", "cpu:5", "cuda:-1", "cuda:x", "mkldnn", "hpu", " cpu"]
USES = ["generate x", "explain", "autotune", "autotune --shape 8x8", "bench --shape 8x8", "train --text {0} --out {1}"]


@pytest.mark.parametrize("use", USES)
def test_devices_that_are_not_there_are_refused_in_words_by_every_command(use, tmp_path, monkeypatch, capsys):
    import bitnet_jit.cli

    text = tmp_path / "text"
    text.write_bytes(bytes(2000))
    for device in DEVICES:
        arguments = use.format(text, tmp_path / "out").split()
        monkeypatch.setattr("sys.argv", ["bitnet-jit", *arguments, "--device", device])
        with pytest.raises(SystemExit) as ended:
            bitnet_jit.cli.main()
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert ended.value.code == 1
        assert len(told) == 1
        assert told[0].startswith(f"error: device: {device!r} cannot be used (".replace("  ", " "))
        assert len(told[0]) < 400
    assert not (tmp_path / "out").exists()


def refused(monkeypatch, capsys, *arguments: str) -> str:
    """Return the error of the command in this process."""
    import bitnet_jit.cli

    monkeypatch.setattr("sys.argv", ["bitnet-jit", *arguments])
    with pytest.raises(SystemExit) as ended:
        bitnet_jit.cli.main()
    told = capsys.readouterr().err
    assert ended.value.code in (1, 2), told
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("number", ["1208925819614629174706176", "9" * 5000], ids=["large", "huge"])
@pytest.mark.parametrize(
    "arguments",
    [
        "generate x --seed",
        "generate x --max-new-tokens",
        "generate x --stop-token",
        "bench --rows",
        "bench --threads",
        "bench --shape 8x",
        "explain --rows",
        "autotune --shape 8x8 --rows",
        "train --text {0} --out {1} --steps",
        "train --text {0} --out {1} --hidden-size",
        "train --text {0} --out {1} --context-length",
        "train --text {0} --out {1} --batch-size",
        "train --text {0} --out {1} --seed",
    ],
)
def test_numbers_beyond_reason(monkeypatch, capsys, tmp_path, arguments, number):
    text = tmp_path / "text"
    text.write_bytes(bytes(2000))
    words = f"{arguments.format(text, tmp_path / 'out')} ".replace("8x ", "8x").split(" ")
    *before, last = words
    told = refused(monkeypatch, capsys, *before, last + number)
    assert "expected" in told or "more than there is" in told or "Invalid value" in told
    assert not (tmp_path / "out").exists()


def test_strings_and_tokens_that_end_a_text(monkeypatch, capsys):
    from typer.testing import CliRunner

    from bitnet_jit.cli.app import app

    def written(*arguments):
        return CliRunner().invoke(app, ["generate", VERSE, *arguments], catch_exceptions=False).stdout

    assert written("--stop", "the") == f"{VERSE}after the\n"
    assert written("--stop", "xyz", "--stop", "ter") == f"{VERSE}after\n"
    assert written("--stop-token", str(ord("d"))) == f"{VERSE}after the d\n"
    assert written("--stop-token", str(ord("d")), "--stop", "te") == f"{VERSE}afte\n"
    assert "stop: expected strings of at least one character" in refused(
        monkeypatch, capsys, "generate", "x", "--stop", ""
    )
    assert "stop: expected token ids from 0 to 255" in refused(
        monkeypatch, capsys, "generate", "x", "--stop-token", "256"
    )


def test_generate_takes_what_the_decoder_takes():
    import inspect

    from bitnet_jit.cli.generate import generate
    from bitnet_jit.generation.decoder import Decoder

    options = set(inspect.signature(generate).parameters)
    in_python_alone = {"self", "input_ids", "attention_mask", "sampling"}
    assert set(inspect.signature(Decoder.generate).parameters) - in_python_alone <= options


@pytest.mark.parametrize(("term", "written"), [("dumb", "slow ...\n"), ("xterm", "\r\x1b[Kslow ...\r\x1b[K")])
def test_patience_writes_no_escapes_to_a_dumb_terminal(monkeypatch, capsys, term, written):
    from bitnet_jit.cli import patience

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    told = patience.Patience("slow")
    told._tell()
    told.end()
    assert capsys.readouterr().err == written


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        OSError(28, "No space left on device", "/a/file"),
    ],
)
def test_memory_and_disks_that_are_full_are_one_line(monkeypatch, capsys, error):
    from bitnet_jit.cli import app

    def fail():
        raise error

    monkeypatch.setattr(app, "app", fail)
    told = refused(monkeypatch, capsys, "info")
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_a_slip_of_ours_keeps_its_traceback(monkeypatch):
    import bitnet_jit.cli

    def fail():
        raise RuntimeError("a slip")

    monkeypatch.setattr(bitnet_jit.cli.app, "app", fail)
    with pytest.raises(RuntimeError, match="a slip"):
        bitnet_jit.cli.main()
