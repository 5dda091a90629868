"""Tensors through one module on several devices: shared out by load, and made elsewhere where a device fails."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import K, inputs, packed
from torch import nn

from bitnet_jit.engine import InferenceEngine
from bitnet_jit.engine.devices.balanced import Balanced
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.errors import DeviceFailed, InvalidInput, OutOfMemory

WAIT = 30


class Failing(nn.Module):
    """A layer that fails in the calls that it is told of, and may hold calls back."""

    def __init__(self, errors=()):
        super().__init__()
        self.inner, self.errors, self.calls = packed(), dict(errors), 0
        self.gate = threading.Event()
        self.gate.set()
        self.eval()

    def forward(self, x):
        self.calls += 1
        assert self.gate.wait(WAIT)
        if error := self.errors.get(self.calls):
            raise error
        return self.inner(x)


def gone():
    return torch.AcceleratorError("the device is gone")


def short():
    return torch.OutOfMemoryError("no memory")


@given(
    rows=st.lists(st.sampled_from([(), (1,), (3,), (2, 5), (0,)]), min_size=1, max_size=12),
    faults=st.lists(st.dictionaries(st.integers(1, 6), st.sampled_from([gone, short])), min_size=1, max_size=3),
)
def test_every_output_is_the_one_of_the_module(rows, faults):
    parts = [Failing({call: make() for call, make in fault.items()}) for fault in faults]
    balanced, xs = Balanced([*parts, packed()]), inputs(rows)
    for x in xs:
        torch.testing.assert_close(balanced(x), packed()(x), rtol=0, atol=0)
    for part, member in zip(parts, balanced.members, strict=False):
        failed = [call for call, error in part.errors.items() if isinstance(error, torch.AcceleratorError)]
        assert bool(member.failure) == any(call <= part.calls for call in failed)
        assert part.calls <= min(failed, default=100)  # it is not asked again
    assert all(member.rows == 0 for member in balanced.members)


def test_calls_go_where_the_fewest_rows_are():
    parts = [Failing(), Failing()]
    balanced = Balanced(parts)
    for part in parts:
        part.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        calls = []
        for number, rows in enumerate((9, 2, 2, 2, 9)):
            calls.append(pool.submit(balanced, torch.ones(rows, K)))
            while sum(part.calls for part in parts) <= number:
                pass
        assert [member.rows for member in balanced.members] == [9 * K, 15 * K]
        for part in parts:
            part.gate.set()
        assert [tuple(call.result(WAIT).shape)[0] for call in calls] == [9, 2, 2, 2, 9]
    assert [part.calls for part in parts] == [1, 4]
    for _ in range(7):  # one after another: each takes its turn
        balanced(torch.ones(K))
    assert [part.calls for part in parts] == [6, 6]


def test_where_no_device_is_left_the_error_says_why(caplog):
    balanced = Balanced([Failing({1: gone()}), Failing({1: short(), 2: gone()})])
    with pytest.raises(torch.OutOfMemoryError):
        balanced(torch.ones(K))
    assert "cpu could not make a call, which another device makes: the device is gone" in caplog.text
    for _ in range(2):
        with pytest.raises(DeviceFailed, match="no device of the module is left .*the device is gone"):
            balanced(torch.ones(K))


def test_other_errors_are_raised_as_they_are():
    parts = [Failing({1: RuntimeError("shapes do not fit")}), Failing()]
    balanced = Balanced(parts)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        balanced(torch.ones(K))
    assert [member.rows for member in balanced.members] == [0, 0]
    assert [part.calls for part in parts] == [1, 0]


def test_an_engine_shares_tensors_out():
    parts, xs = [Failing({3: gone()}), Failing({3: short()}), Failing()], inputs([(3,), (), (20,), (2, 2)] * 4)
    with InferenceEngine() as engine:
        model = engine.add_model("layer", parts[0], replicas=parts[1:])
        for x in xs:
            torch.testing.assert_close(engine.infer("layer", x), packed()(x), rtol=0, atol=0)
        torch.testing.assert_close(engine.infer_batch("layer", xs), [packed()(x) for x in xs], rtol=0, atol=0)
        assert model.total_weight_count == engine.add_model("one", packed()).total_weight_count
    assert parts[0].calls == 3
    assert min(parts[1].calls, parts[2].calls) > 5


def test_batches_that_fit_nowhere_are_halved():
    class Small(nn.Module):
        def forward(self, x):
            if len(x) > 4:
                raise short()
            return 2 * x

    processor = BatchProcessor(Balanced([Small().eval(), Small().eval()]))
    (y,) = processor.run([torch.ones(19, 3)])
    assert torch.equal(y, torch.full((19, 3), 2.0))
    with InferenceEngine() as engine:
        engine.add_model("small", Small().eval(), replicas=[Small().eval()])
        with pytest.raises(OutOfMemory):
            engine.infer("small", torch.ones(5, 3))


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([], r"modules: expected a list of modules, got \[\]"),
        (nn.Identity(), "modules: expected a list of modules"),
        ([nn.Identity(), 3], "module: expected a torch.nn.Module, got 3"),
        ([nn.Dropout().train()], "module: is in training mode"),
    ],
)
def test_modules_that_cannot_be_meant_are_refused(modules, words):
    with pytest.raises(InvalidInput, match=words):
        Balanced(modules)
