"""How workers in processes load their model: errors and warnings are those of a thread, and files are checked."""

import os
import shutil

import pytest
import torch
from lone_texts import alone, decoder, prompt_of
from process_engines import WAIT, held, kill, kill_and_wait, serving, wait_ready
from safetensors.torch import load_file, save_file
from served import wait_until

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.text.processes import process as process_file
from bitnet_jit.errors import CheckpointError, CheckpointWarning, DeviceFailed, InvalidInput
from bitnet_jit.generation.sampling import Sampling


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the small model."""
    return shutil.copytree(embedded_model(), tmp_path / "tiny")


def test_what_cannot_be_loaded_is_refused_as_in_a_thread():
    before = held()
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        for options, words in (
            ({"dtype": torch.float16}, "dtype: expected torch.float32 or torch.bfloat16"),
            ({"head": "wooden"}, "head"),
            ({"cache": "wooden"}, "cache"),
        ):
            with pytest.raises(InvalidInput, match=words):
                engine.load_model(devices=["cpu", "cpu"], **options).result()
            assert not engine.models
        assert engine.load_model(devices=["cpu"]).result().model_id == "tiny-bitnet"
    assert held() == before


def test_damaged_files_are_told_and_nothing_is_left(folder, caplog):
    (weights,) = folder.glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(CheckpointError, match=weights.name):
        engine.load_model(folder, devices=["cpu", "cpu"]).result()
    assert not any("is out" in record.getMessage() for record in caplog.records), "nothing was there that could fail"
    (folder / "config.json").write_text("{")
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(CheckpointError, match="config.json"):
        engine.load_model(folder, devices=["cpu", "cpu"]).result()


def test_warnings_of_a_load_are_given_here_once(tmp_path):
    bitnet_jit.save(decoder(), tmp_path / "odd")  # in the format of Hugging Face
    file = tmp_path / "odd" / "model.safetensors"
    weights = load_file(file)
    name = min(name for name in weights if name.endswith("weight_scale"))
    save_file(weights | {name: torch.full_like(weights[name], 47.0)}, file, {"format": "pt"})
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        pending = engine.load_model(tmp_path / "odd", devices=["cpu", "cpu"])
        with pytest.warns(CheckpointWarning, match="weight_scale = 47") as caught:
            pending.result()
        assert len(caught) == 1


def test_a_process_that_ends_before_it_is_ready_is_told(monkeypatch):
    monkeypatch.setattr(process_file, "CHILD", "no_such_module")
    words = "tiny-bitnet 0 on cpu: its process has ended .exit code 1"
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(DeviceFailed, match=words):
        engine.load_model(devices=["cpu", "cpu"]).result()


def test_a_process_is_not_started_anew_with_other_weights(folder):
    """Files that were written to meanwhile are another model."""
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        members = engine.load_model(folder, devices=["cpu", "cpu"]).result().replica.members
        (weights,) = folder.glob("*.safetensors")
        os.utime(weights, (1, 1))
        handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(4)]
        kill_and_wait(members[0])
        assert [len(handle.result(WAIT).tokens) for handle in handles] == [150] * 4
        wait_until(lambda: not members[0].is_alive)
        assert engine.stats()["tiny"].replicas_alive == 1
        handle = engine.submit("tiny", prompt_of(0, 9), 900)
        kill(members[1])
        with pytest.raises(DeviceFailed, match="its files were written to since the model was loaded"):
            handle.result(WAIT)


def test_a_system_that_starts_no_more_processes_is_tried_again(monkeypatch, caplog):
    real, refused = process_file.subprocess.Popen, []

    def refuse(*arguments, **options):
        if len(refused) < 2:
            refused.append(arguments)
            raise BlockingIOError(11, "no more processes")
        return real(*arguments, **options)

    with serving(1) as (engine, (member,)):
        handle = engine.submit("tiny", prompt_of(0, 9), 100)
        next(iter(handle))
        monkeypatch.setattr(process_file.subprocess, "Popen", refuse)
        kill_and_wait(member)
        assert handle.result(WAIT).tokens[1:] == alone(0, 9, 100, Sampling())[1:]
        wait_ready([member])
        assert len(refused) == 2
    assert sum("cannot be started (" in record.getMessage() for record in caplog.records) == 2


def test_a_tuned_engine_writes_its_first_texts_in_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_JIT_CACHE", str(tmp_path))
    level = bitnet_jit.engine.OptimizationLevel.AGGRESSIVE
    with serving(2, optimization_level=level, tuning_seconds=0.5, max_running=2) as (engine, members):
        assert [member.stats().finished for member in members] == [1, 1]
        assert engine.submit("tiny", prompt_of(0, 9), 40).result(WAIT).tokens == alone(0, 9, 40, Sampling())
