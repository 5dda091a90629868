"""Damaged checkpoints of a training: a CheckpointError, and the network stays as it was."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from bitnet_jit.errors import BitNetError, CheckpointError, InvalidInput, WriteError
from bitnet_jit.training import checkpoint, run
from bitnet_jit.training.checkpoint import FILE
from bitnet_jit.training.settings import TrainSettings

SETTINGS = TrainSettings(
    layers=1, hidden_size=16, intermediate_size=16, heads=2, context_length=16, window=8, steps=20, batch_size=2
)
TEXT = torch.frombuffer(bytearray(b"In the beginning was the word. " * 20), dtype=torch.uint8)
CPU = torch.device("cpu")
DONE = 12  # steps
VALUES = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e30)


def trainer():
    return run.Trainer(SETTINGS, TEXT, TEXT[:100], CPU)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the tensors and the metadata of a run that was stopped."""

    def stop(state):
        if state.step == DONE:
            raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "TELL_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            run.train(SETTINGS, TEXT, TEXT[:100], out, CPU, progress=stop)
    with safe_open(out / FILE, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def restored(file, tensors, metadata):
    """Return a network that has taken up such a file, and its history."""
    save_file(tensors, file, metadata)
    taken = trainer()
    return taken, checkpoint.restore(file, taken.run, taken.network, taken.optimizer)


def assert_refused(file, tensors, metadata, words="expected the format|found a damaged one"):
    """Assert that the file is refused, and the network stays as it was."""
    save_file(tensors, file, metadata)
    taken, fresh = trainer(), trainer()
    with pytest.raises(CheckpointError, match=words):
        checkpoint.restore(file, taken.run, taken.network, taken.optimizer)
    assert all(torch.equal(a, b) for a, b in zip(taken.network.parameters(), fresh.network.parameters(), strict=True))
    assert not taken.optimizer.state


def test_a_good_one_is_taken_up(tmp_path, good):
    tensors, metadata = good
    taken, history = restored(tmp_path / FILE, tensors, metadata)
    assert (history.step, history.skipped) == (DONE, 0)
    assert [step for step, _ in history.validations] == [2, 4, 6, 8, 10, 12]
    for name, parameter in taken.network.named_parameters():
        assert torch.equal(parameter, tensors[f"weight.{name}"])
        assert torch.equal(taken.optimizer.state[parameter]["exp_avg"], tensors[f"exp_avg.{name}"])


METADATA = {
    "a step that is a word": {"step": "abc"},
    "no step": {"step": None},
    "an empty step": {"step": ""},
    "a negative step": {"step": "-1"},
    "a step beyond the steps": {"step": "21"},
    "a step of a thousand digits": {"step": "9" * 5000},
    "a step in other digits": {"step": "١٢"},
    "more steps than losses": {"step": "13"},
    "fewer steps than losses": {"step": "11"},
    "a fraction": {"step": "12.0"},
    "more skipped than done": {"skipped": "13"},
    "no skipped": {"skipped": None},
    "no settings": {"settings": None},
    "settings that are a list": {"settings": "[]"},
    "settings that are no JSON": {"settings": "{"},
    "settings nested deeply": {"settings": "[" * 100_000},
    "a setting twice": {"settings": '{"layers": 1, "layers": 1}'},
    "half a surrogate pair": {"settings": '{"layers": "\\ud800"}'},
    "another format": {"format": "bitnet_jit.training/1"},
    "no format": {"format": None},
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_cannot_be_right(tmp_path, good, what):
    metadata = {name: value for name, value in (good[1] | METADATA[what]).items() if value is not None}
    assert_refused(tmp_path / FILE, good[0], metadata)


def test_another_run_is_named_whatever_its_settings_are(tmp_path, good):
    for value in (5, "x" * 10_000, None, [1], 10**4000):
        said = json.loads(good[1]["settings"]) | {"layers": value}
        with pytest.raises(InvalidInput, match="layers: .* is of a run with layers=") as caught:
            restored(tmp_path / FILE, good[0], good[1] | {"settings": json.dumps(said)})
        assert len(str(caught.value)) < 1000
    with pytest.raises(InvalidInput, match="text: .* is of a run on another text"):
        restored(tmp_path / FILE, good[0], {name: value for name, value in good[1].items() if name != "text"})


WEIGHT, SQUARES = "weight.model.embed_tokens.weight", "exp_avg_sq.model.norm.weight"
TENSORS = {
    "a weight lacks": ({WEIGHT: None}, f"{WEIGHT}: expected F32 .256, 16., found no such tensor"),
    "a moment lacks": ({SQUARES: None}, f"{SQUARES}: expected"),
    "losses lack": ({"losses": None}, r"losses: expected F32 \(20,\), found no such tensor"),
    "validations lack": ({"validations": None}, "validations: expected"),
    "too many losses": ({"losses": torch.zeros(21)}, r"losses: .* found F32 \(21,\)"),
    "losses as a matrix": ({"losses": torch.zeros(20, 1)}, "losses: expected"),
    "losses in float64": ({"losses": torch.zeros(20).double()}, "found F64"),
    "losses of steps to come": ({"losses": torch.zeros(20)}, "losses: expected those of 12 steps, found 20"),
    "no losses at all": ({"losses": torch.full((20,), math.nan)}, "losses: expected those of 12 steps, found 0"),
    "another shape": ({WEIGHT: torch.zeros(3, 16)}, f"{WEIGHT}: .* found F32 .3, 16."),
    "a shape that broadcasts": ({WEIGHT: torch.zeros(1, 16)}, f"{WEIGHT}: expected"),
    "another dtype": ({WEIGHT: torch.zeros(256, 16).bfloat16()}, f"{WEIGHT}: .* found BF16"),
    "one more": ({"weight.more": torch.zeros(3)}, "weight.more: a tensor that such a run does not have"),
    "NaN": ({WEIGHT: torch.full((256, 16), math.nan)}, f"{WEIGHT}: expected finite values"),
    "infinite squares": ({SQUARES: torch.full((16,), math.inf)}, f"{SQUARES}: expected finite values"),
    "negative squares": ({SQUARES: -torch.ones(16)}, f"{SQUARES}: expected mean squares"),
    "a judgement of no step": ({"validations": torch.tensor([[0.0, 1.0]]).double()}, "validations: expected steps"),
    "half a step": ({"validations": torch.tensor([[1.5, 1.0]]).double()}, "validations: expected steps"),
    "a step to come": ({"validations": torch.tensor([[13.0, 1.0]]).double()}, "found 13 with 1 bits"),
    "steps in disorder": ({"validations": torch.tensor([[4.0, 1], [2, 1]]).double()}, "in order, found 2"),
    "steps that are NaN": ({"validations": torch.full((1, 2), math.nan).double()}, "validations: expected"),
    "too many judgements": ({"validations": torch.ones(13, 2).double()}, r"validations: expected F64 \(12, 2\)"),
    "judgements as a row": ({"validations": torch.ones(2).double()}, "validations: expected"),
    "a judgement as a scalar": ({"validations": torch.tensor(1.0).double()}, "validations: expected"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_cannot_be_right(tmp_path, good, what):
    change, words = TENSORS[what]
    tensors = {name: tensor for name, tensor in (good[0] | change).items() if tensor is not None}
    assert_refused(tmp_path / FILE, tensors, good[1], words)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_is_refused_or_finite(tmp_path, good, data):
    tensors, metadata = dict(good[0]), dict(good[1])
    name = data.draw(st.sampled_from(sorted(tensors)))
    match data.draw(st.sampled_from(("value", "cut", "dtype", "drop", "swap", "number"))):
        case "value":
            tensors[name] = tensors[name].clone()
            if tensors[name].numel():
                place = data.draw(st.integers(0, tensors[name].numel() - 1))
                tensors[name].view(-1)[place] = data.draw(st.sampled_from(VALUES))
        case "cut":
            tensors[name] = tensors[name][: data.draw(st.integers(0, len(tensors[name]) - 1))].clone()
        case "dtype":
            tensors[name] = tensors[name].to(data.draw(st.sampled_from((torch.float16, torch.int64, torch.uint8))))
        case "drop":
            del tensors[name]
        case "swap":
            tensors[name] = tensors[data.draw(st.sampled_from(sorted(tensors)))].clone()
        case "number":
            key = data.draw(st.sampled_from(sorted(metadata)))
            metadata[key] = data.draw(st.text(max_size=5) | st.integers().map(str) | st.just(metadata[key]))
    try:
        taken, history = restored(tmp_path / FILE, tensors, metadata)
    except BitNetError:
        return
    assert all(bool(parameter.isfinite().all()) for parameter in taken.network.parameters())
    assert 0 <= history.skipped <= history.step <= SETTINGS.steps
    assert history.losses.shape == (SETTINGS.steps,)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_no_regular_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(CheckpointError, match="found a damaged one .*found a pipe"):
        run.train(SETTINGS, TEXT, TEXT[:100], tmp_path, CPU)
    os.unlink(tmp_path / FILE)
    (tmp_path / FILE).symlink_to(FILE)
    with pytest.raises(CheckpointError, match="cannot be read"):
        run.train(SETTINGS, TEXT, TEXT[:100], tmp_path, CPU)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_link_to_a_checkpoint_elsewhere_stays_one(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).symlink_to(tmp_path / "elsewhere")
    run.train(SETTINGS, TEXT, TEXT[:100], tmp_path / "out", CPU)
    assert (tmp_path / "out" / FILE).is_symlink()
    assert (tmp_path / "elsewhere").stat().st_size > 1000
    run.train(SETTINGS, TEXT, TEXT[:100], tmp_path / "out", CPU)  # takes up the link


def test_weights_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
    def poisoned(self):
        advance(self)
        if self.history.step == 20:  # the last update itself overflows
            next(self.network.parameters()).data[0, 0] = math.inf

    advance = run.Trainer.advance
    monkeypatch.setattr(run.Trainer, "advance", poisoned)
    with pytest.raises(BitNetError, match="the weights at step 20 are not finite: they have diverged"):
        run.train(SETTINGS, TEXT, TEXT[:100], tmp_path, CPU)
    assert not (tmp_path / FILE).exists()


def test_a_run_that_ended_before_it_was_judged_is_judged(tmp_path, monkeypatch):
    def never(self):
        if self.history.step == 20:
            raise KeyboardInterrupt
        judge(self)

    judge = run.Trainer.judge
    monkeypatch.setattr(run.Trainer, "judge", never)
    with pytest.raises(KeyboardInterrupt):
        run.train(SETTINGS, TEXT, TEXT[:100], tmp_path, CPU)
    monkeypatch.undo()
    _, history = run.train(SETTINGS, TEXT, TEXT[:100], tmp_path, CPU)
    assert [step for step, _ in history.validations] == [*range(2, 21, 2)]


FULL = """
import resource, sys
from pathlib import Path
from test_checkpoint import CPU, FILE, SETTINGS, TEXT, BitNetError, run
out = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    run.train(SETTINGS, TEXT, TEXT[:100], out, CPU)
except BitNetError as error:
    print(type(error).__name__, error)
print(sorted(path.name for path in out.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_leaves_the_older_checkpoint_and_no_pieces(tmp_path, good):
    save_file(good[0], tmp_path / FILE, good[1])
    before = (tmp_path / FILE).read_bytes()
    command = [sys.executable, "-c", FULL, tmp_path, "10000"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(__file__))
    assert ended.returncode == 0, ended.stderr
    said, names = ended.stdout.splitlines()
    assert said.startswith(f"WriteError {tmp_path / FILE} cannot be written (")
    assert "File too large" in said
    assert names == str([".training.lock", FILE])
    assert (tmp_path / FILE).read_bytes() == before


def test_an_error_of_writing_is_an_oserror_too(tmp_path):
    assert issubclass(WriteError, OSError)
    taken = trainer()
    taken.advance()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        taken.save(tmp_path / "file" / FILE)
