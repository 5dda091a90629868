"""The register of kernels: every entry is well formed, refusals are words, and nothing absent is imported."""

import pytest

from bitnet_jit.errors import InvalidInput, UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Backend, Kernel
from bitnet_jit.packing import CANONICAL, FORMATS, Layout
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.dispatcher import Dispatcher

INSTALLED = [name for name in registry.BACKENDS if registry.absent_reason(name) is None]
OPS = sorted({kernel.op for kernel in registry.kernels()})

MATMUL = Problem("ternary_matmul", "cpu", 4, 32, 48, layout="i2", x_dtype="int8", y_dtype="int32", activation="a8")


def kernel(name, reason=None):
    return Kernel(name, "ternary_matmul", lambda problem, config: None, lambda problem: (None,), lambda problem: reason)


@pytest.fixture
def register(monkeypatch):
    """Replaces the register by the given backends."""

    def replace(*backends, **entries):
        by_name = {backend.name: backend for backend in backends}
        everywhere = {name: registry.Entry() for name in by_name}
        monkeypatch.setattr(registry, "BACKENDS", everywhere | entries)
        monkeypatch.setattr(registry, "backend", by_name.__getitem__)
        for cached in (registry.absent_reason, registry.preferred_layout, registry.get_layout):
            monkeypatch.setattr(registry, cached.__name__, cached.__wrapped__)

    return replace


def test_names_are_unique_and_begin_with_the_backend():
    for name in INSTALLED:
        names = [kernel.name for kernel in registry.backend(name).kernels]
        assert len(set(names)) == len(names)
        assert all(kernel_name.startswith(f"{name}.") for kernel_name in names)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_plain_torch_kernel_as_its_last_choice(op):
    assert list(registry.BACKENDS)[-1] == "torch"
    assert any(kernel.name.startswith("torch.") for kernel in registry.kernels(op))


def test_every_backend_has_a_layout_for_the_formats_it_serves():
    for name in INSTALLED:
        found = registry.backend(name)
        assert len({layout.name for layout in found.layouts}) == len(found.layouts)
        assert {layout.format.name for layout in found.layouts} <= set(FORMATS)
        assert found.training_layout is None or found.training_layout in found.layouts


@pytest.mark.parametrize("name", FORMATS)
def test_the_preferred_layout_is_of_the_format_and_known(name):
    layout = registry.preferred_layout(name, "cpu")
    assert layout.format.name == name
    assert registry.get_layout(layout.name) is layout
    assert registry.preferred_layout(name, "a device of tomorrow") == CANONICAL[name]


def test_a_backend_may_want_weights_in_training_laid_otherwise(register):
    usual, other = (Layout(name, FORMATS["i2"], None, None, None) for name in ("i2/usual", "i2/other"))
    plain, choosy = Backend("plain", (), (usual, other)), Backend("choosy", (), (usual, other), other)
    register(plain, choosy, choosy=registry.Entry(device_types=("cuda",)))
    registry_finds = registry.training_layout.__wrapped__
    assert (registry_finds("cpu"), registry_finds("cuda")) == (usual, other)
    assert registry.preferred_layout("i2", "cuda") == usual


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InvalidInput, match="layout: expected one of i2, t5.* got 'i2/nowhere'"):
        registry.get_layout("i2/nowhere")
    with pytest.raises(InvalidInput, match="packing: expected one of i2, t5, got 'i3'"):
        registry.preferred_layout("i3", "cpu")


def test_candidates_come_in_order_and_refusals_in_words(register):
    fast = Backend("fast", (kernel("fast.a", "K is odd"), kernel("fast.b")), ())
    slow = Backend("slow", (kernel("slow.a"),), ())
    register(fast, slow)
    fitting, refusals = registry.candidates(MATMUL)
    assert [found.name for found in fitting] == ["fast.b", "slow.a"]
    assert refusals == {"fast.a": "K is odd"}


def test_a_backend_that_cannot_serve_the_device_refuses_as_a_whole(register):
    register(Backend("gpu", (kernel("gpu.a"),), ()), gpu=registry.Entry((), ("cuda", "xpu")))
    assert registry.candidates(MATMUL) == ([], {"gpu": "serves cuda and xpu, not cpu"})


def test_an_absent_package_is_a_refusal_with_its_remedy(register):
    register(alien=registry.Entry(("no_such_package_at_all",)))
    _, refusals = registry.candidates(MATMUL)
    assert "pip install no_such_package_at_all" in refusals["alien"]
    assert list(registry.kernels()) == []


def test_nothing_fits_lists_every_refusal(register):
    register(
        Backend("gpu", (), ()),
        Backend("odd", (kernel("odd.a", "K is even"), kernel("odd.b", "M is 4")), ()),
        gpu=registry.Entry((), ("cuda",)),
    )
    with pytest.raises(UnsupportedProblem) as caught:
        Dispatcher().choose(MATMUL)
    assert caught.value.refusals == {"gpu": "serves cuda, not cpu", "odd.a": "K is even", "odd.b": "M is 4"}
    for words in ("ternary_matmul of 4 x 48 -> 32", "gpu: serves cuda, not cpu", "odd.a: K is even", "odd.b: M is 4"):
        assert words in str(caught.value)


def test_an_empty_register_says_so(register):
    register()
    with pytest.raises(UnsupportedProblem, match="no kernel at all"):
        Dispatcher().choose(MATMUL)
