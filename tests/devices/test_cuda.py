"""A GPU's fingerprint tells it from every other kind."""

from types import SimpleNamespace

import pytest
import torch

from bitnet_jit.devices import cuda as device
from bitnet_jit.devices import kinds
from bitnet_jit.problem import Gpu


def properties(**others):
    fields = {"name": "NVIDIA H200", "major": 9, "minor": 0, "multi_processor_count": 132}
    return SimpleNamespace(**fields, shared_memory_per_block=49152, **others)


@pytest.mark.parametrize(
    ("others", "hip", "arch", "shared_memory"),
    [
        ({"shared_memory_per_block_optin": 232448}, None, "9.0", 232448),
        ({}, None, "9.0", 49152),
        ({"gcnArchName": "gfx942:sramecc+:xnack-"}, "6.4", "gfx942", 49152),
    ],
)
def test_a_gpu_is_what_its_driver_tells(monkeypatch, others, hip, arch, shared_memory):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda result: properties(**others))
    monkeypatch.setattr(torch.version, "hip", hip)
    result = device.find_gpu.__wrapped__(torch.device("cuda", 0))
    assert (result.name, result.arch, result.multiprocessors) == ("NVIDIA H200", arch, 132)
    assert result.shared_memory == shared_memory
    assert kinds.find_gpu(torch.device("cpu")) is None


def test_the_fingerprint_of_a_gpu_names_it(monkeypatch):
    monkeypatch.setattr(device, "find_gpu", lambda result: Gpu("NVIDIA H200", "9.0", 132, 232448))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device, "driver_version", lambda: torch.version.hip or "13000")
    assert device.gpu_fingerprint(torch.device("cuda", 0)) == "NVIDIA H200/9.0/132/13000"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert device.gpu_fingerprint(torch.device("cuda", 0)) == "NVIDIA H200/9.0/132/6.4"


class Driver:
    """libcuda with one function, which may fail."""

    def __init__(self, status):
        self.status = status

    def cuDriverGetVersion(self, number):  # noqa: N802
        number._obj.value = 13000
        return self.status


@pytest.mark.parametrize(("status", "version"), [(0, "13000"), (3, "unknown")])
def test_the_version_of_the_driver_is_asked_of_the_driver(monkeypatch, status, version):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: Driver(status))
    assert device.driver_version.__wrapped__() == version


def test_without_a_driver_its_version_is_unknown(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    assert device.driver_version.__wrapped__() == "unknown"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert device.driver_version.__wrapped__() == "6.4"
