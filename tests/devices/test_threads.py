"""The number of CPU threads: by hand, else by the environment, else as torch has it."""

import os
import subprocess
import sys

import pytest
import torch

import bitnet_jit
from bitnet_jit.devices.threads import Threads
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.cores import available_cores


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


HUGE = """
import torch, bitnet_jit
layer = bitnet_jit.PackedBitLinear.from_codes(torch.ones(4096, 2048, dtype=torch.int8), torch.tensor(1.0))
x = torch.ones(256, 2048)
for number in (4096, None):
    torch.set_num_threads(1000)  # of 40000 torch itself does not survive its own end
    bitnet_jit.set_num_threads(number)
    print(bitnet_jit.get_num_threads() <= max(64, 4 * len(os.sched_getaffinity(0))), float(layer(x)[3, 5]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the script asks Linux for its cores")
@pytest.mark.parametrize("environ", [{}, {"BITNET_JIT_NUM_THREADS": "4096"}])
def test_more_threads_than_the_system_has_do_not_end_the_process(environ):
    command = [sys.executable, "-c", f"import os{HUGE}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=120)
    assert done.stdout.split() == ["True", "2048.0"] * 2, done.stderr


@pytest.mark.parametrize("number", [0, -1, 40000, 10**22, 1.5, "2", True])
def test_numbers_of_threads_that_cannot_be_meant_are_refused(threads, number):
    with pytest.raises(InvalidInput, match="number: expected"):
        threads.set(number)
