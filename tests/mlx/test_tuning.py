"""`bitnet_jit.mlx.autotune`, and what `explain` says of problems on MLX's arrays."""

import mlx.core as mx
import pytest
from metal_host.fake_mlx import metal
from mlx import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.mlx import BACKEND
from bitnet_jit.mlx import autotune, convert, pack
from bitnet_jit.ops import calls


@pytest.fixture
def model():
    """Return two packed layers of one shape, and one of another."""
    return pack(convert(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32))))


def test_problems_are_tuned_once_and_kept(model):
    first = autotune(model, rows=(1,), dtype=mx.float32, progress=False)
    assert len(first.outcomes) == 2
    assert {outcome.problem.device_type for outcome in first.outcomes} == {"mlx"}
    again = autotune(model, rows=(1,), dtype=mx.float32, progress=False)
    known = {outcome.problem for outcome in first.outcomes if outcome.state == "tuned"}
    assert {outcome.problem for outcome in again.outcomes if outcome.state == "known"} == known
    for problem in known:
        assert calls.DISPATCHER.choose(problem).tuned is not None
        assert calls.DISPATCHER.choose(problem).kernel.backend == "mlx"


def test_activations_have_the_dtype_of_the_model(model):
    norm = nn.RMSNorm(64)
    norm.set_dtype(mx.bfloat16)
    (outcome,) = autotune(nn.Sequential(norm, model.layers[0]), rows=(1,), budget_seconds=0, progress=False).outcomes
    assert outcome.problem.x_dtype == "bfloat16"
    (outcome,) = autotune(model.layers[0], rows=(1,), budget_seconds=0, progress=False).outcomes
    assert outcome.problem.x_dtype == "float16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": nn.Linear(4, 4)}, "model: Linear has no packed layer of bitnet_jit.mlx"),
        ({"model": None}, "model: NoneType has no packed layer"),
        ({"rows": (0,)}, "rows: expected whole numbers of at least 1"),
        ({"effort": "all"}, "effort: expected one of quick, full"),
    ],
)
def test_what_cannot_be_tuned_is_refused(model, arguments, words):
    with pytest.raises(InvalidInput, match=words):
        autotune(**{"model": model, "progress": False} | arguments)


def test_explain_tells_of_refusals_on_a_cpu(model):
    text = str(bitnet_jit.explain(model.layers[0].problem(mx.zeros((1, 64)))))
    assert "on mlx" in text
    assert "needs a GPU as MLX's default device" in text


def test_rates_of_a_mac_are_published_ones(monkeypatch):
    monkeypatch.setattr(
        "bitnet_jit.devices.mlx.information", lambda: {"device_name": "Apple M3", "architecture": "g15"}
    )
    with metal():
        assert BACKEND.measure_rates(None, 0).origin == "published of Apple M3"
