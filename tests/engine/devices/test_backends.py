"""Devices as places where batches run: what is said of them is what the records say."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import K, inputs, packed
from torch import nn

from bitnet_jit.devices.kind import DeviceKind
from bitnet_jit.devices.kinds import KINDS
from bitnet_jit.engine import all_backends, backend_of, is_cuda_available, is_metal_available, is_mlx_available
from bitnet_jit.engine.devices.backends import DeviceBackend, all_devices
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Backend
from bitnet_jit.system.memory import total_memory

CPU = torch.device("cpu")


@given(rows=st.lists(st.sampled_from([(), (1,), (3,), (17,), (0,), (2, 5)]), max_size=6))
def test_a_batch_is_computed(rows):
    xs, module = inputs(rows), packed()
    torch.testing.assert_close(backend_of(CPU).execute_batch(module, xs), [module(x) for x in xs], rtol=0, atol=0)


def test_a_module_that_is_elsewhere_is_refused():
    with pytest.raises(
        InvalidInput, match=r"module: expected one on cuda:0, got one on cpu; move it by \.to\(device\)"
    ):
        DeviceBackend(torch.device("cuda:0")).execute_batch(packed(), [torch.ones(K)])
    with pytest.raises(InvalidInput, match="module: expected"):
        backend_of("cpu").execute_batch(3, [])
    with pytest.raises(InvalidInput, match="device: 'toaster' cannot be used"):
        backend_of("toaster")
    assert backend_of("cpu").execute_batch(nn.Identity(), [torch.ones(2)])[0].tolist() == [1, 1]


def test_memory_is_that_of_the_machine():
    before = backend_of("cpu").memory_usage()
    assert before.total_bytes == total_memory()
    assert 0 < before.used_bytes < before.total_bytes
    assert before.free_bytes == before.total_bytes - before.used_bytes
    unknown = DeviceBackend(torch.device("xpu:0")).memory_usage()
    assert (unknown.total_bytes, unknown.used_bytes) == (None, 0)
    assert unknown.free_bytes > 2**40


def test_capabilities_come_from_the_records(monkeypatch):
    cpu = backend_of("cpu").capabilities()
    assert cpu.languages == tuple(one.name for one in registry.serving("cpu"))
    assert cpu.has_kernels == (cpu.languages != ("torch",))
    assert {*cpu.languages, *cpu.refusals} == {*registry.BACKENDS}
    assert all(cpu.refusals.values())
    assert cpu.description["cores"].isdecimal()
    assert (cpu.default_dtype, cpu.captures_graphs) == ("float32", False)
    monkeypatch.setitem(KINDS, "cuda", DeviceKind("cuda", default_dtype="float16", capture=lambda f, d: None))
    gpu = DeviceBackend(torch.device("cuda:0")).capabilities()
    assert gpu.refusals["numba"] == "serves cpu, not cuda"
    assert (gpu.default_dtype, gpu.captures_graphs) == ("float16", True)


def test_every_device_has_a_backend(monkeypatch):
    assert [backend.device for backend in all_backends()] == all_devices()
    assert all_devices()[-1] == CPU
    monkeypatch.setitem(KINDS, "cpu", DeviceKind("cpu", count=lambda: 0))
    assert CPU not in all_devices()


def test_what_is_available_is_asked_of_the_records(monkeypatch):
    assert is_cuda_available() == torch.cuda.is_available()
    assert is_metal_available() == torch.backends.mps.is_available()
    assert is_mlx_available() == (importlib.util.find_spec("mlx") is not None)
    absent = Backend("mlx", kernels=tuple, bind_call=None, packages=("no_such_package",))
    ours = registry.BACKENDS["mlx"]
    registry.unregister("mlx")
    try:
        assert not is_mlx_available()
        registry.register(absent)
        assert not is_mlx_available()
        registry.unregister("mlx")
    finally:
        registry.register(ours)
