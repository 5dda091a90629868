"""Devices by name: those that torch can use here, and refusals in words for all others."""

import numpy as np
import pytest
import torch

import bitnet_jit
from bitnet_jit.devices.checks import check_device
from bitnet_jit.errors import InvalidInput

KINDS = [
    "mkldnn",
    "opengl",
    "opencl",
    "ideep",
    "hip",
    "ve",
    "fpga",
    "maia",
    "xla",
    "lazy",
    "vulkan",
    "meta",
    "hpu",
    "mtia",
    "privateuseone",
    "ipu",
]
NAMES = [
    "",
    " ",
    " cpu",
    "cpu ",
    "CPU",
    "cpu:1",
    "cpu:-1",
    "cpu:x",
    "cuda:99",
    "cuda:-1",
    "cuda:",
    "abacus",
    "cpu\0",
    "\udce9",
]
OTHERS = [-1, 1.5, True, object(), ("cpu",), ["cpu"], {}, np.int64(77), torch.float32, torch.device("meta")]


@pytest.mark.parametrize(
    "device", [*KINDS, *NAMES, *OTHERS, torch.device("cpu", 5), "x" * 10**6], ids=lambda d: repr(d)[:20]
)
def test_what_is_no_device_here_is_refused_in_words(device):
    for use in (check_device, lambda device: bitnet_jit.load(device=device)):
        with pytest.raises(InvalidInput, match="device: .* cannot be used") as told:
            use(device)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 400


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_the_cpu_by_all_of_its_names(device):
    assert check_device(device) == torch.device("cpu")


def test_meta_where_no_values_are_asked_for():
    assert check_device("meta", meta=True) == torch.device("meta")


def test_gpus_are_refused_where_there_are_none():
    if torch.cuda.is_available():
        assert check_device("cuda").type == "cuda"
    else:
        with pytest.raises(InvalidInput, match="device: 'cuda' cannot be used"):
            check_device("cuda")
