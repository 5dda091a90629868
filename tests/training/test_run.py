"""A run on a CPU: it learns, and a run that was stopped and taken up equals one that was not."""

import math
import signal
from dataclasses import replace
from uuid import uuid4

import pytest
import torch
from safetensors.torch import save_file

import bitnet_jit
from bitnet_jit.errors import BitNetError, CheckpointError, InvalidInput
from bitnet_jit.training import run
from bitnet_jit.training.checkpoint import FILE
from bitnet_jit.training.interrupts import Interrupts
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.results import draw_curve, write_figures
from bitnet_jit.training.settings import TrainSettings

SETTINGS = TrainSettings(
    layers=2,
    hidden_size=32,
    intermediate_size=48,
    heads=2,
    kv_heads=1,
    context_length=64,
    window=24,
    steps=12,
    batch_size=3,
    warmup_steps=2,
)
TEXT = torch.frombuffer(bytearray(b"In the beginning was the word. " * 40), dtype=torch.uint8)
JUDGED = TEXT[:120]
CPU = torch.device("cpu")


def train(out, settings=SETTINGS, text=TEXT, **options):
    return run.train(settings, text, JUDGED, out, CPU, **options)


def stop_at(step):
    """Return a progress callback that interrupts the run at a step."""

    def progress(state):
        if state.step >= step:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(run, "TELL_SECONDS", -1.0)


def test_it_learns(tmp_path):
    told = []
    network, history = train(tmp_path, replace(SETTINGS, steps=150, learning_rate=0.01), progress=told.append)
    assert not history.losses.isnan().any()
    assert history.losses[0].item() == pytest.approx(math.log(256), rel=0.01)
    assert history.losses[-10:].mean() < 0.5 * history.losses[0]
    steps = [step for step, _ in history.validations]
    assert (len(steps), steps[-1]) == (run.VALIDATIONS, 150)
    assert told[-1].step == 150
    assert told[-1].validation == history.validations[-1][1] < 4
    assert told[-1].bits_per_byte == pytest.approx(history.losses[-1].item() / math.log(2))


def test_a_run_that_is_stopped_and_taken_up_is_the_same(tmp_path, talkative):
    whole, wanted = train(tmp_path / "whole")
    for step in (1, 5, 11):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", progress=stop_at(step))
    parts, history = train(tmp_path / "parts")
    assert torch.equal(history.losses, wanted.losses)
    assert history.validations == wanted.validations
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))


def test_a_step_that_is_half_done_is_not_kept(tmp_path, monkeypatch):
    def fails(self):
        advance(self)
        if self.history.step == 3:
            self.between_steps = False
            raise MemoryError

    advance = run.Trainer.advance
    monkeypatch.setattr(run.Trainer, "advance", fails)
    with pytest.raises(MemoryError):
        train(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_ctrl_c_waits_for_the_end_of_a_step():
    heard = []
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGINT)
        heard.append("waited")
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == ["waited"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_run_that_has_ended_does_nothing_more(tmp_path):
    first, history = train(tmp_path)
    again, known = train(tmp_path, progress=lambda state: pytest.fail("there is nothing left to do"))
    assert torch.equal(known.losses, history.losses)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))


def test_checkpoints_are_written_now_and_then(tmp_path, talkative, monkeypatch):
    saved = []
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(run, "save", lambda file, of, history, *_: saved.append(history.step))
    train(tmp_path)
    assert saved == [*range(1, 13)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"learning_rate": 0.5},
            "learning_rate: .* is of a run with learning_rate=0.001, this one has 0.5",
        ),
        ({"layers": 3}, "layers: .* is of a run with layers=2, this one has 3"),
        ({"steps": 20}, "steps: .* is of a run with steps=12"),
    ],
)
def test_a_checkpoint_of_another_run_is_left_alone(tmp_path, change, words):
    train(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(InvalidInput, match=words):
        train(tmp_path, replace(SETTINGS, **change))
    with pytest.raises(InvalidInput, match="text: .* is of a run on another text"):
        train(tmp_path, text=TEXT.flip(0))
    assert (tmp_path / FILE).read_bytes() == before


def test_a_run_that_diverges_says_so_and_keeps_nothing(tmp_path, talkative):
    with pytest.raises(BitNetError, match="the last 8 steps, .* not finite: the weights have diverged"):
        train(tmp_path, replace(SETTINGS, learning_rate=1e38))
    assert not (tmp_path / FILE).exists()


def test_one_process_at_a_time_trains_into_a_folder(tmp_path, talkative):
    def another(state):
        with pytest.raises(InvalidInput, match="out: another process trains into"):
            train(tmp_path)

    leftover, foreign = tmp_path / f".loss.png.{uuid4().hex}.tmp", tmp_path / ".foreign.tmp"
    leftover.touch()
    foreign.touch()
    train(tmp_path, progress=another)
    assert not leftover.exists()
    assert foreign.exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InvalidInput, match="out: .* cannot be written to"):
        train(tmp_path / "out")


def test_damaged_and_foreign_files_are_refused_and_left_alone(tmp_path):
    file = tmp_path / FILE
    train(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="expected a checkpoint of a training, found a damaged one"):
        train(tmp_path)
    assert len(file.read_bytes()) == len(content) // 2
    save_file({"a": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="expected the format 'bitnet_jit.training/2', found None"):
        train(tmp_path)


def test_the_packed_model_is_the_trained_one(tmp_path):
    """Their layers agree to the bit; sums of attention and head run in other orders."""
    network, history = train(tmp_path)
    bitnet_jit.save(network, tmp_path)
    packed, ids = bitnet_jit.load(tmp_path), TEXT[:60].long().reshape(2, 30)
    with torch.no_grad():
        expected = network.eval()(ids)
        torch.testing.assert_close(packed(ids), expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
    assert packed.config == network.config


def test_what_is_left_behind_can_be_read(tmp_path):
    network, history = train(tmp_path)
    write_figures(history, tmp_path)
    lines = (tmp_path / "losses.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0] == "step,bits_per_byte,validation"
    step, bits, judged = lines[-1].split(",")
    assert (int(step), float(bits)) == (12, pytest.approx(history.losses[-1].item() / math.log(2), abs=1e-5))
    assert float(judged) == pytest.approx(history.validations[-1][1], abs=1e-5)
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed")
    draw_curve(history, tmp_path)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_dense_layers_begin_with_the_same_weights(tmp_path):
    ternary = run.Trainer(SETTINGS, TEXT, JUDGED, CPU)
    dense = run.Trainer(replace(SETTINGS, dense=True), TEXT, JUDGED, CPU)
    for (name, a), (other, b) in zip(ternary.network.named_parameters(), dense.network.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    _, history = train(tmp_path, replace(SETTINGS, dense=True))
    assert history.losses[-1] < history.losses[0]


def test_norms_do_not_decay():
    trainer = run.Trainer(SETTINGS, TEXT, JUDGED, CPU)
    matrices, others = trainer.optimizer.param_groups
    assert all(parameter.dim() == 2 for parameter in matrices["params"])
    assert all(parameter.dim() == 1 for parameter in others["params"])
    assert (matrices["weight_decay"], others["weight_decay"]) == (SETTINGS.weight_decay, 0.0)


def test_a_step_whose_gradients_are_not_finite_changes_nothing_and_is_counted(tmp_path, talkative, monkeypatch):
    def poisoned(parameters, most):
        parameters = list(parameters)
        norms.append(1)
        if len(norms) in (4, 5):
            parameters[0].grad[3] = math.nan
        return clip(parameters, most)

    clip, norms, told = run.nn.utils.clip_grad_norm_, [], []
    monkeypatch.setattr(run.nn.utils, "clip_grad_norm_", poisoned)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=stop_at(9))
    network, history = train(tmp_path, progress=told.append)
    assert (history.skipped, told[-1].skipped) == (2, 2)
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_skipped_step_leaves_weights_and_moments_as_they_were(tmp_path):
    trainer = run.Trainer(SETTINGS, TEXT, JUDGED, CPU)
    for _ in range(3):
        trainer.advance()
    weight = trainer.network.model.norm.weight
    for parameter in trainer.network.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    before, moments = weight.clone(), {name: value.clone() for name, value in trainer.optimizer.state[weight].items()}
    trainer.update(torch.tensor(True))
    assert torch.equal(weight, before)
    assert all(torch.equal(trainer.optimizer.state[weight][name], value) for name, value in moments.items())
    trainer.collect()
    assert trainer.history.skipped == 1


def test_dropout_is_the_step_s_own_and_leaves_the_caller_s_random_numbers_alone(tmp_path, talkative):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    _, with_dropout = train(tmp_path / "a", replace(SETTINGS, dropout=0.5))
    assert torch.equal(torch.rand(4), wanted)
    _, without = train(tmp_path / "b", replace(SETTINGS, dropout=0.0))
    assert not torch.equal(with_dropout.losses, without.losses)


def test_squares_in_float16_are_refused_in_words():
    network = TrainedDecoder(SETTINGS.decoder())
    with pytest.raises(InvalidInput, match=r"x: relu\(gate\)\^2 overflows in torch\.float16; train in torch\.bfloat16"):
        network.half()(TEXT[None, :24].long())
    llama = TrainedDecoder(replace(SETTINGS.decoder(), activation="silu", sub_norms=False)).half()
    assert llama(TEXT[None, :24].long()).isfinite().all()
