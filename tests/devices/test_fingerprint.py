"""Fingerprints: a device is told from every other kind by its words."""

import os
from types import SimpleNamespace

import pytest
import torch

from bitnet_jit.devices import fingerprint as device
from bitnet_jit.problem import Gpu


def test_the_cpu_is_its_model_its_features_and_its_cores():
    name, features, cores = device.cpu_fingerprint().rsplit("/", 2)
    assert name == device.cpu_name() != ""
    assert features == "+".join(device.cpu_features())
    assert int(cores) == device.available_cores() >= 1
    assert device.fingerprint(torch.device("cpu")) == device.cpu_fingerprint()


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert device.available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device.available_cores() == 1


@pytest.mark.parametrize(
    ("info", "features"),
    [
        ("model name\t: a\nflags\t\t: fpu avx2 avx512_vnni avx512bw\n", ("avx2", "avx512bw", "avx512_vnni")),
        ("BogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\n", ("asimddp",)),
        ("flags\t: fpu\n", ()),
        ("", ()),
    ],
)
def test_features_are_those_that_linux_tells_of(monkeypatch, tmp_path, info, features):
    file = tmp_path / "cpuinfo"
    file.write_text(info)
    monkeypatch.setattr(device, "Path", lambda name: file)
    assert device.cpu_features() == features


def test_without_cpuinfo_no_feature_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "Path", lambda name: tmp_path / "none")
    assert device.cpu_features() == ()


def test_other_devices_differ_from_the_cpu():
    assert device.fingerprint(torch.device("meta")) != device.cpu_fingerprint()


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
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda found: properties(**others))
    monkeypatch.setattr(torch.version, "hip", hip)
    found = device.find_gpu.__wrapped__(torch.device("cuda", 0))
    assert (found.name, found.arch, found.multiprocessors) == ("NVIDIA H200", arch, 132)
    assert found.shared_memory == shared_memory
    assert device.find_gpu(torch.device("cpu")) is None


def test_the_fingerprint_of_a_gpu_names_it(monkeypatch):
    monkeypatch.setattr(device, "find_gpu", lambda found: Gpu("NVIDIA H200", "9.0", 132, 232448))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device, "driver_version", lambda: torch.version.hip or "13000")
    assert device.fingerprint.__wrapped__(torch.device("cuda", 0)) == "NVIDIA H200/9.0/132/13000"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert device.fingerprint.__wrapped__(torch.device("cuda", 0)) == "NVIDIA H200/9.0/132/6.4"


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


def test_a_sandbox_that_tells_nothing_is_a_device_too(monkeypatch, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for file in (tmp_path / "absent", tmp_path / "folder", tmp_path / "bytes"):
        monkeypatch.setattr(device, "Path", lambda name, file=file: file)
        assert device.cpu_features() == ()
        assert device.cpu_name()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: (_ for _ in ()).throw(PermissionError()), raising=False)
    assert device.available_cores() == (os.cpu_count() or 1)
