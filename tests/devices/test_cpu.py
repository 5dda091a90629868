"""The CPU's fingerprint tells it from every other kind."""

import os

import pytest
import torch

from bitnet_jit.devices import cpu as device
from bitnet_jit.devices.kinds import fingerprint


def test_the_cpu_is_its_model_its_features_and_its_cores():
    name, features, cores = device.cpu_fingerprint().rsplit("/", 2)
    assert name == device.cpu_name() != ""
    assert features == "+".join(device.cpu_features())
    assert int(cores) == device.available_cores() >= 1
    assert fingerprint(torch.device("cpu")) == device.cpu_fingerprint()


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
    assert fingerprint(torch.device("meta")) != device.cpu_fingerprint()


def test_a_sandbox_that_tells_nothing_is_a_device_too(monkeypatch, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for file in (tmp_path / "absent", tmp_path / "folder", tmp_path / "bytes"):
        monkeypatch.setattr(device, "Path", lambda name, file=file: file)
        assert device.cpu_features() == ()
        assert device.cpu_name()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: (_ for _ in ()).throw(PermissionError()), raising=False)
    assert device.available_cores() == (os.cpu_count() or 1)
