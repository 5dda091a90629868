"""`bitnet-jit train` as a shell sees it: a model to generate from, errors in words, runs that are killed."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from random import Random

import pytest
from safetensors import safe_open

from bitnet_jit.cli import main
from bitnet_jit.cli.train import train
from bitnet_jit.training.settings import TrainSettings

MAIN = "from bitnet_jit.cli import main; main()"
SIZES = "--layers 1 --hidden-size 32 --intermediate-size 48 --heads 2 --window 24 --context-length 64 --batch-size 2"
SLACK = 2.0  # seconds that writing a checkpoint, and a busy machine, may take beside the interval
TEXT = b"In the beginning was the word. " * 60


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT)
    return file


def command(text, out, steps, *more):
    sizes = [*SIZES.split(), "--warmup-steps", "2", "--device", "cpu", "--steps", str(steps)]
    return [sys.executable, "-c", MAIN, "train", "--text", str(text), "--out", str(out), *sizes, *more]


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, encoding="utf-8")


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Return a function that runs the command in this process, which must end with code 1, and returns its stderr."""

    def refuse(*arguments):
        monkeypatch.setattr("sys.argv", ["bitnet-jit", *command(*arguments)[3:]])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (1, "")
        assert "Traceback" not in err
        return err

    return refuse


def losses(out):
    """Return the step and bits per byte of each step."""
    return [line.rpartition(",")[0] for line in (out / "losses.csv").read_text().splitlines()]


def test_a_model_is_trained_and_continues_a_text(text, tmp_path):
    out = tmp_path / "out"
    result = run(*command(text, out, 30))
    assert result.returncode == 0, result.stderr
    assert re.search(r"30 steps; \d\.\d+ bits per byte of the held-out text; loss curve in", result.stdout)
    assert "30/30" in result.stderr
    assert {"model.safetensors", "config.json", "losses.csv", "checkpoint.safetensors"} <= set(os.listdir(out))
    written = run(sys.executable, "-c", MAIN, "generate", "In the ", "--model", str(out), "--max-new-tokens", "5")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("In the ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("target", "limit"),
    [
        ("checkpoint.safetensors", 20_000),
        pytest.param("losses.csv", 10, marks=pytest.mark.exhaustive),
        pytest.param("", 10, marks=pytest.mark.exhaustive),
    ],
)
def test_a_full_disk_is_one_line_and_old_files_stay(text, tmp_path, target, limit):
    out = tmp_path / "out"
    assert run(*command(text, out, 3)).returncode == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    if target == "checkpoint.safetensors":
        (out / target).unlink()
        del before[target]
    result = run(sys.executable, "-c", FULL.format(target, limit) + MAIN, *command(text, out, 3)[3:])
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"error: {out / target} cannot be written \(.*\); what was there before .*", last), (
        result.stderr
    )
    assert "Traceback" not in result.stderr
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


FULL = """
import resource, sys
from pathlib import Path
from bitnet_jit.checkpoints import publish
from bitnet_jit.system import files
from bitnet_jit.training import checkpoint, results
beside = files.beside
def limited(file, *more):  # as if the disk were full when that file is written
    if file.name == {0!r} or ({0!r} == "" and file.name == "model.safetensors"):
        resource.setrlimit(resource.RLIMIT_FSIZE, ({1}, resource.RLIM_INFINITY))
    return beside(file, *more)
for module in (files, checkpoint, results, publish):
    module.beside = limited
"""


def test_the_options_have_the_defaults_of_the_settings():
    options = inspect.signature(train).parameters
    assert {field.name: options[field.name].default for field in fields(TrainSettings)} == asdict(TrainSettings())


def test_a_dense_model_is_not_packed(text, tmp_path):
    result = run(*command(text, tmp_path / "out", 3, "--dense", "--validation", str(text)))
    assert result.returncode == 0, result.stderr
    assert "a dense model is not packed" in result.stdout
    assert not (tmp_path / "out" / "model.safetensors").exists()


HEADS = "error: hidden_size: expected an even multiple of heads=5"


def test_errors_are_one_line(text, tmp_path, refusal):
    for more, words in (
        (["--heads", "5"], HEADS),
        (["--validation", "/no/such/file"], "error: validation: /no/such/file cannot be read"),
        (["--device", "cuda:77"], "error: device: 'cuda:77' cannot be used"),
    ):
        assert refusal(text, tmp_path / "out", 3, *more).startswith(words)
        assert not (tmp_path / "out").exists()


def test_a_shell_sees_an_error_in_one_line(text, tmp_path):
    result = run(*command(text, tmp_path / "out", 3, "--heads", "5"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(HEADS)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_files_that_lie_are_one_line(text, tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**43)
    (tmp_path / "nowhere").symlink_to("absent/folder")
    for source, out, words in (
        (tmp_path / "pipe", "out", "error: text: .*pipe cannot be read .expected a regular file, found a pipe"),
        (tmp_path / "huge", "out", "error: text: .*huge cannot be read .expected at most"),
        (text, "text.txt", "error: out: .*text.txt cannot be written to"),
        (text, "nowhere", "error: out: .*nowhere cannot be written to"),
        (text, "n" * 300, "error: out: .* cannot be written to .*too long"),
    ):
        err = refusal(source, tmp_path / out, 3)
        assert re.match(words, err.splitlines()[-1]), err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*command(text, whole, 400)).returncode == 0
    frequent = f"from bitnet_jit.training import run; run.SAVE_SECONDS = 0.05; {MAIN}"
    began = [sys.executable, "-c", frequent, *command(text, parts, 400)[3:]]
    checkpoint, ended = parts / "checkpoint.safetensors", 0
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(began, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        if process.returncode == 0:
            break  # it was too fast for us
        assert process.returncode == 130, said
        assert "the same command goes on from there" in said
        ended += 1
    assert ended
    assert_the_same_in_the_end(text, parts, whole, 400)


def test_no_other_process_trains_into_the_folder_while_results_are_written(text, tmp_path):
    result = run(sys.executable, "-c", INTRUDING + MAIN, *command(text, tmp_path / "out", 3)[3:])
    assert result.returncode == 1
    assert "error: out: another process trains into" in result.stderr


INTRUDING = """
from bitnet_jit.training import folder, results
def intrude(history, out):
    with folder.alone(out):
        print("was let in")
results.write_figures = intrude
"""


def assert_the_same_in_the_end(text, parts, whole, steps):
    """Assert that a run that was ended and resumed ends with the results of a run that was not."""
    result = run(*command(text, parts, steps))
    assert result.returncode == 0, result.stderr
    assert losses(parts) == losses(whole)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(parts.glob(".*.tmp"))


LOGGED = """
import sys, time
from bitnet_jit.training import run
run.SAVE_SECONDS = float(sys.argv.pop(1))
advance, log = run.Trainer.advance, open(sys.argv.pop(1), "w")
def logged(trainer):
    advance(trainer)
    print(trainer.history.step, time.time(), file=log, flush=True)
run.Trainer.advance = logged
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_run_killed_at_random_moments_loses_an_interval_at_most(text, tmp_path):
    whole, parts, log, interval, draw = tmp_path / "whole", tmp_path / "parts", tmp_path / "log", 0.2, Random(0)
    assert run(*command(text, whole, 500)).returncode == 0
    began = [sys.executable, "-c", LOGGED + MAIN, str(interval), str(log), *command(text, parts, 500)[3:]]
    for _ in range(4):
        log.unlink(missing_ok=True)
        process = subprocess.Popen(began, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 1))
        process.kill()
        killed, code = time.time(), process.wait()
        if code == 0:
            break  # it was too fast for us
        steps = [line.split() for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = step_of(parts / "checkpoint.safetensors")
        lost = [float(when) for step, when in steps if int(step) > kept]
        assert not lost or killed - lost[0] < interval + SLACK
    assert_the_same_in_the_end(text, parts, whole, 500)


def step_of(checkpoint):
    """Return the step of a checkpoint; 0 where there is none."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as opened:
        return int(opened.metadata()["step"])


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "100000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_openmp_is_told_before_torch_comes_unless_the_user_has(given, expected):
    code = (
        "import os, sys; from bitnet_jit.cli.app import app; from bitnet_jit.cli.train import share_cores;"
        "share_cores(); assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    left = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    printed = subprocess.run([sys.executable, "-c", code], env=left | given, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(expected)
