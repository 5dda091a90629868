"""What a run is told is checked as a whole, before anything begins."""

import pytest

from bitnet_jit.errors import InvalidInput
from bitnet_jit.training.run import learning_rate
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
    ],
)
def test_what_cannot_be_meant_is_named(change, words):
    with pytest.raises(InvalidInput, match=words):
        TrainSettings(**change)


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
