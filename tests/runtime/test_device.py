"""Fingerprints: a device is told from every other kind by its words."""

import os

import torch

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
