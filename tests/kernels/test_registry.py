"""The registry of kernels: every entry is well formed, refusals are words, and nothing absent is imported."""

from dataclasses import replace

import pytest

from bitnet_jit import ops
from bitnet_jit.errors import InvalidInput, UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Backend
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.packing import CANONICAL, FORMATS, Layout
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.dispatcher import Dispatcher

INSTALLED = [name for name in registry.BACKENDS if registry.absent_reason(name) is None]
OPS = sorted({kernel.op for kernel in registry.kernels()})

MATMUL = Problem("ternary_matmul", "cpu", 4, 32, 48, layout="i2", x_dtype="int8", y_dtype="int32", activation="a8")


def kernel(name, reason=None):
    return Kernel(name, "ternary_matmul", lambda problem, config: None, lambda problem: (None,), lambda problem: reason)


def record(name, *kernels, layouts=(), **fields):
    """Return a backend of some kernels."""
    return Backend(name, lambda: kernels, bind_call=None, layouts=lambda: layouts, **fields)


@pytest.fixture
def registered(monkeypatch):
    """Return a function that replaces the registry by some backends, the first one asked first."""

    def replace_all(*backends):
        in_order = [replace(backend, priority=-place) for place, backend in enumerate(backends)]
        monkeypatch.setattr(registry, "BACKENDS", {backend.name: backend for backend in in_order})
        registry.forget()

    yield replace_all
    monkeypatch.undo()
    registry.forget()


def test_names_are_unique_and_begin_with_the_backend():
    for name in INSTALLED:
        names = [kernel.name for kernel in registry.kernels_of(name)]
        assert len(set(names)) == len(names)
        assert all(kernel_name.startswith(f"{name}.") for kernel_name in names)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_plain_torch_kernel_as_its_last_choice_or_steps(op):
    assert registry.in_order()[-1].name == "torch"
    assert [backend.name for backend in registry.in_order() if backend.fallback] == ["torch"]
    assert any(kernel.name.startswith("torch.") for kernel in registry.kernels(op)) == (ops.OPS[op].steps is None)


def test_every_backend_has_a_layout_for_the_formats_it_serves():
    for name in INSTALLED:
        backend = registry.BACKENDS[name]
        layouts = backend.layouts()
        assert len({layout.name for layout in layouts}) == len(layouts)
        assert {layout.format.name for layout in layouts} <= set(FORMATS)
        assert backend.training_layout() is None or backend.training_layout() in layouts


@pytest.mark.parametrize("name", FORMATS)
def test_the_preferred_layout_is_of_the_format_and_known(name):
    layout = registry.preferred_layout(name, "cpu")
    assert layout.format.name == name
    assert registry.get_layout(layout.name) is layout
    assert registry.preferred_layout(name, "a device of tomorrow") == CANONICAL[name]


def test_a_backend_may_want_weights_in_training_laid_otherwise(registered):
    default, other = (Layout(name, FORMATS["i2"], None, None, None) for name in ("i2/default", "i2/other"))
    plain = record("plain", layouts=(default, other))
    choosy = record("choosy", layouts=(default, other), training_layout=lambda: other, device_types=("cuda",))
    registered(plain, choosy)
    assert (registry.training_layout("cpu"), registry.training_layout("cuda")) == (default, other)
    assert registry.preferred_layout("i2", "cuda") == default


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InvalidInput, match="layout: expected one of i2, t5.* got 'i2/nowhere'"):
        registry.get_layout("i2/nowhere")
    with pytest.raises(InvalidInput, match="packing: expected one of i2, t5, got 'i3'"):
        registry.preferred_layout("i3", "cpu")


def test_candidates_come_in_order_and_refusals_in_words(registered):
    registered(record("fast", kernel("fast.a", "K is odd"), kernel("fast.b")), record("slow", kernel("slow.a")))
    fitting, refusals = registry.candidates(MATMUL)
    assert [kernel.name for kernel in fitting] == ["fast.b", "slow.a"]
    assert refusals == {"fast.a": "K is odd"}


def test_kernels_of_a_backend_come_by_their_priority_for_the_problem(registered):
    first, second = kernel("fast.a"), replace(kernel("fast.b"), priority=lambda problem: problem.rows)
    registered(record("fast", first, second))
    assert registry.candidates(MATMUL)[0] == [second, first]


def test_a_backend_that_cannot_serve_the_device_refuses_as_a_whole(registered):
    registered(record("gpu", kernel("gpu.a"), device_types=("cuda", "xpu")))
    assert registry.candidates(MATMUL) == ([], {"gpu": "serves cuda and xpu, not cpu"})


def test_an_absent_package_is_a_refusal_with_its_remedy(registered):
    registered(record("alien", kernel("alien.a"), packages=("no_such_package_at_all",)))
    _, refusals = registry.candidates(MATMUL)
    assert "pip install no_such_package_at_all" in refusals["alien"]
    assert list(registry.kernels()) == []


def test_a_name_is_registered_once_until_it_is_removed():
    registry.register(record("alien", kernel("alien.a")))
    try:
        with pytest.raises(InvalidInput, match="backend: there is one named 'alien' already"):
            registry.register(record("alien"))
        assert "alien.a" in {kernel.name for kernel in registry.kernels()}
    finally:
        registry.unregister("alien")
    assert "alien.a" not in {kernel.name for kernel in registry.kernels()}


def test_nothing_fits_lists_every_refusal(registered):
    registered(
        record("gpu", device_types=("cuda",)), record("odd", kernel("odd.a", "K is even"), kernel("odd.b", "M is 4"))
    )
    with pytest.raises(UnsupportedProblem) as caught:
        Dispatcher().choose(MATMUL)
    assert caught.value.refusals == {"gpu": "serves cuda, not cpu", "odd.a": "K is even", "odd.b": "M is 4"}
    for words in ("ternary_matmul of 4 x 48 -> 32", "gpu: serves cuda, not cpu", "odd.a: K is even", "odd.b: M is 4"):
        assert words in str(caught.value)


def test_an_empty_registry_says_so(registered):
    registered()
    with pytest.raises(UnsupportedProblem, match="no kernel at all"):
        Dispatcher().choose(MATMUL)
