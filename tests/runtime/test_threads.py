"""The number of CPU threads: by hand, else by the environment, else as torch has it."""

import sys

import pytest
import torch

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.runtime.device import available_cores
from bitnet_jit.runtime.threads import Threads


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.delenv("BITNET_JIT_NUM_THREADS", raising=False)
    return Threads()


def test_torch_is_followed(threads):
    before = torch.get_num_threads()
    try:
        for number in (2, 1):
            torch.set_num_threads(number)
            assert threads.get() == number
    finally:
        torch.set_num_threads(before)


def test_what_is_set_wins_until_it_is_taken_back(threads):
    threads.set(3)
    assert threads.get() == 3
    threads.set(None)
    assert threads.get() == torch.get_num_threads()


def test_the_environment_wins_over_torch(monkeypatch):
    monkeypatch.setenv("BITNET_JIT_NUM_THREADS", "7")
    assert Threads().get() == 7


def test_without_torch_all_cores_are_used(threads, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert threads.get() == available_cores()


@pytest.mark.parametrize("number", [0, -2, 1.0, "2", True])
def test_a_number_that_cannot_be_meant_is_refused(threads, number):
    with pytest.raises(InvalidInput, match=f"number: .*{number!r}"):
        threads.set(number)
    assert threads.get() == torch.get_num_threads()


def test_the_public_functions_share_one_number():
    try:
        bitnet_jit.set_num_threads(5)
        assert bitnet_jit.get_num_threads() == 5
    finally:
        bitnet_jit.set_num_threads(None)
