"""Calls whose device fails: the CPU makes them, with the same result, and the log says why."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import K, N, inputs, packed
from torch import nn

from bitnet_jit.engine import InferenceEngine
from bitnet_jit.engine.devices import fallback as file
from bitnet_jit.engine.devices.failures import is_device_failure, is_short_of_memory
from bitnet_jit.engine.devices.fallback import Fallback, copy_to_cpu
from bitnet_jit.errors import CacheFull, DeviceFailed, InvalidInput, OutOfMemory

GPU = torch.device("cuda", 0)
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]
GONE = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("Triton Error [CUDA]: invalid argument"),
    RuntimeError("HIP error: invalid device function"),
]
OTHERS = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), InvalidInput("x: wrong"), CacheFull("no pages")]


class Breaking(nn.Module):
    """A layer that is taken for one on a GPU, and fails as it is told; its copies do not."""

    def __init__(self, error=None):
        super().__init__()
        self.inner, self.error, self.calls = packed(), error, 0
        self.original = id(self)
        self.eval()

    def forward(self, x):
        if id(self) == self.original:
            self.calls += 1
            if self.error is not None:
                raise self.error
        return self.inner(x)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    """Have modules that break taken for modules on a GPU, their copies not."""
    device_of = file.device_of
    monkeypatch.setattr(
        file, "device_of", lambda m: GPU if isinstance(m, Breaking) and id(m) == m.original else device_of(m)
    )


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_a_call_without_memory_is_made_on_the_cpu_once(caplog, error):
    module, fallback = Breaking(error), Fallback()
    (x,) = inputs([(3,)])
    torch.testing.assert_close(fallback.infer(module, x), packed()(x), rtol=0, atol=0)
    assert "cuda:0 has too little memory for a call, which the CPU makes" in caplog.text
    assert str(error) in caplog.text
    module.error = None
    fallback.infer(module, x)
    assert (module.calls, fallback.failed) == (2, {})


@pytest.mark.parametrize("error", GONE, ids=str)
def test_a_device_that_failed_is_not_asked_again(caplog, error):
    module, other, fallback = Breaking(error), Breaking(), Fallback()
    xs = inputs([(3,), (), (2, 2)])
    expected = [packed()(x) for x in xs]
    for _ in range(2):
        torch.testing.assert_close(fallback.infer_batch(module, xs), expected, rtol=0, atol=0)
        torch.testing.assert_close(fallback.infer(other, xs[2]), expected[2], rtol=0, atol=0)
    assert (module.calls, other.calls) == (1, 0)
    assert fallback.failed == {GPU: str(error)}
    assert caplog.text.count("cuda:0 has failed; the CPU stands in for it from now on") == 1


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_raised_as_they_are(error):
    module, fallback = Breaking(error), Fallback()
    with pytest.raises(type(error)) as raised:
        fallback.infer(module, torch.ones(K))
    assert raised.value is error
    with pytest.raises(type(error)):
        fallback.infer_batch(module, [torch.ones(K)])
    assert (module.calls, fallback.failed) == (2, {})


def test_the_cpu_has_no_stand_in():
    class Short(nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(OutOfMemory, match=r"x: shape \(3, 8\)"):
        Fallback().infer(Short(8, 8), torch.ones(3, 8))


def test_a_copy_is_made_anew_where_its_module_has_changed():
    module, fallback, x = Breaking(SHORT[0]), Fallback(), torch.ones(K)
    first = fallback.infer(module, x)
    copies = fallback._copies[module]
    fallback.infer(module, x)
    assert fallback._copies[module] is copies
    with torch.no_grad():
        module.inner.bias += 1
    torch.testing.assert_close(fallback.infer(module, x), first + 1)
    module.inner.load_state_dict(packed(seed=5).state_dict())
    torch.testing.assert_close(fallback.infer(module, x), packed(seed=5)(x), rtol=0, atol=0)


def test_weights_of_a_device_that_is_gone_are_lost_but_for_a_copy_that_was_kept(monkeypatch):
    lost, kept, fallback = Breaking(GONE[0]), Breaking(GONE[0]), Fallback()
    fallback.keep(kept)
    monkeypatch.setattr(file, "copy_to_cpu", lambda module: (_ for _ in ()).throw(GONE[1]))
    with pytest.raises(DeviceFailed, match="cuda:0 has failed .*illegal memory.*gives no weights back: .*assert"):
        fallback.infer(lost, torch.ones(K))
    torch.testing.assert_close(fallback.infer(kept, torch.ones(K)), packed()(torch.ones(K)), rtol=0, atol=0)


def test_inputs_on_a_device_that_is_gone_are_lost_in_words():
    module, fallback = Breaking(), Fallback()
    fallback._failed = {GPU: "it is gone", torch.device("meta"): "it is gone"}
    with pytest.raises(DeviceFailed, match="x: meta has failed, and gives it back no more"):
        fallback.infer(module, torch.ones(K, device="meta"))
    with pytest.raises(InvalidInput, match=r"xs\[0\]: expected a tensor, got 3"):
        fallback.infer_batch(module, [3])


@given(rows=st.lists(st.integers(0, 40), min_size=1, max_size=5), bias=st.booleans())
def test_a_copy_computes_the_same_and_shares_nothing(rows, bias):
    module = nn.Sequential(packed(), nn.Linear(N, 5, bias=bias), nn.BatchNorm1d(5)).eval()
    copied = copy_to_cpu(module)
    for x in inputs([(count,) for count in rows]):
        torch.testing.assert_close(copied(x), module(x), rtol=0, atol=0)
    addresses = [{one.data_ptr() for one in file.tensors_of(each)} for each in (module, copied)]
    assert not addresses[0] & addresses[1]
    grads = [[one.requires_grad for one in file.tensors_of(each)] for each in (module, copied)]
    assert grads[0] == grads[1]


def test_an_engine_falls_back():
    module, xs = Breaking(GONE[2]), inputs([(3,), ()])
    with InferenceEngine() as engine:
        engine.add_model("layer", module)
        torch.testing.assert_close(engine.infer_batch("layer", xs), [packed()(x) for x in xs], rtol=0, atol=0)
        torch.testing.assert_close(engine.infer("layer", xs[0]), packed()(xs[0]), rtol=0, atol=0)
    assert module.calls == 1


@pytest.mark.parametrize(
    ("errors", "short", "gone"), [(SHORT, True, False), (GONE, False, True), (OTHERS, False, False)]
)
def test_errors_are_told_apart(errors, short, gone):
    for error in errors:
        assert (is_short_of_memory(error, GPU), is_device_failure(error, GPU)) == (short, gone)
