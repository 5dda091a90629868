"""Settings of a run: checked as a whole, before anything begins."""

import pytest
import torch

from bitnet_jit.errors import BitNetError, InvalidInput, OutOfMemory
from bitnet_jit.training.run import Trainer, learning_rate, train
from bitnet_jit.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
        ({"steps": 2.0}, "steps: expected a whole number of at least 1, got 2.0"),
        ({"batch_size": True}, "batch_size: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        ({"warmup_steps": -1}, "warmup_steps: expected a whole number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number above 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay: expected a finite number at least 0, got -0.1"),
        ({"clip": float("inf")}, "clip: expected a finite number above 0, got inf"),
        ({"hidden_size": 385}, "hidden_size: expected an even multiple of heads=6"),
        ({"hidden_size": 6}, "hidden_size: expected an even multiple of heads=6"),
        ({"kv_heads": 4}, "kv_heads: expected a divisor of heads=6, got 4"),
        ({"kv_heads": 0}, "kv_heads: expected a whole number of at least 1, got 0"),
        ({"window": 2048}, "window: expected at most context_length=1024, got 2048"),
        ({"final_learning_rate": 1.5}, "final_learning_rate: expected a share of the learning rate, got 1.5"),
        ({"steps": 10**12}, "steps: expected at most 2147483647, got 1000000000000"),
        ({"layers": 10**6}, "layers: expected at most 65536, got 1000000"),
        ({"hidden_size": 10**9}, "hidden_size: expected at most 262144, got 1000000000"),
        ({"intermediate_size": 2**18 + 1}, "intermediate_size: expected at most 262144"),
        ({"context_length": 10**12}, "context_length: expected at most 2147483647"),
        ({"batch_size": 2**31}, "batch_size: expected at most 2147483647"),
        ({"warmup_steps": 2**40}, "warmup_steps: expected at most 2147483647"),
        ({"seed": 2**80}, "seed: expected at most 9223372036854775807"),
        ({"seed": 10**5000}, "seed: expected .* got an integer of 16610 bits"),
        ({"seed": -(10**5000)}, "seed: expected .* got an integer of 16610 bits"),
        ({"clip": 10**400}, "clip: expected a finite number above 0, got 10000"),
        ({"learning_rate": "fast"}, "learning_rate: expected a finite number above 0, got 'fast'"),
        ({"learning_rate": None}, "learning_rate: expected a finite number above 0, got None"),
        ({"dropout": 1j}, "dropout: expected a finite number at least 0, got 1j"),
        ({"dense": "no"}, "dense: expected True or False, got 'no'"),
    ],
)
def test_what_cannot_be_meant_is_named(change, words):
    with pytest.raises(InvalidInput, match=words):
        TrainSettings(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 2**31 - 1, "hidden_size": 2**18, "heads": 2, "layers": 2**16},
        {"hidden_size": 2**17, "intermediate_size": 2**18, "layers": 2**10, "heads": 2**16},
        {"context_length": 2**31 - 1, "window": 2**31 - 1, "batch_size": 2**31 - 1},
        {"batch_size": 2**31 - 1},
    ],
)
def test_sizes_beyond_all_memory_are_refused_before_any_is_taken(tmp_path, change):
    text = torch.zeros(5000, dtype=torch.uint8)
    with pytest.raises(InvalidInput, match="settings: layers=.* need at least .* of memory, cpu has .*; take smaller"):
        train(TrainSettings(**change), text, text, tmp_path / "out", torch.device("cpu"))
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_and_step_are_a_seed_for_torch():
    settings = TrainSettings(seed=2**63 - 1, steps=2**31 - 1)
    torch.Generator().manual_seed(settings.seed + ((settings.steps - 1) << 32))


def test_memory_that_runs_out_is_told_with_the_sizes(tmp_path, monkeypatch):
    errors = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ]
    text = torch.arange(250).to(torch.uint8).repeat(4)
    small = TrainSettings(layers=1, hidden_size=8, intermediate_size=8, heads=2, window=8, steps=2)
    for error in (*errors, RuntimeError("something else")):
        monkeypatch.setattr(Trainer, "advance", lambda self, error=error: (_ for _ in ()).throw(error))
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            train(small, text, text, tmp_path, torch.device("cpu"))
        assert isinstance(caught.value, OutOfMemory) == (error in errors)
        if error in errors:
            assert "settings: layers=1, hidden_size=8" in str(caught.value)
            assert isinstance(caught.value, BitNetError)


def test_key_and_value_heads_by_themselves():
    assert TrainSettings(heads=6).decoder().num_kv_heads == 2
    assert TrainSettings(heads=4, hidden_size=64).decoder().num_kv_heads == 4
    assert TrainSettings(heads=4, hidden_size=64, kv_heads=1).decoder().num_kv_heads == 1


def test_the_learning_rate_rises_and_sinks():
    settings = TrainSettings(steps=1000, warmup_steps=100, learning_rate=0.5, final_learning_rate=0.1)
    rates = [learning_rate(settings, step) for step in range(1000)]
    assert rates.index(max(rates)) in (99, 100)
    assert max(rates) == 0.5
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, rel=1e-2)
    assert learning_rate(TrainSettings(warmup_steps=0), 0) == TrainSettings().learning_rate
