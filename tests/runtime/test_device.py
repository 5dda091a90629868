"""Fingerprints: a device is told from every other kind by its words."""

import os
from types import SimpleNamespace

import pytest
import torch

from bitnet_jit.problem import Gpu
from bitnet_jit.runtime import device


def test_the_cpu_is_its_model_and_its_cores():
    name, _, cores = device.cpu_fingerprint().rpartition("/")
    assert name == device.cpu_name() != ""
    assert int(cores) == device.available_cores() >= 1
    assert device.fingerprint(torch.device("cpu")) == device.cpu_fingerprint()


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert device.available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device.available_cores() == 1


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
    assert device.fingerprint.__wrapped__(torch.device("cuda", 0)) == "NVIDIA H200/9.0/132"
