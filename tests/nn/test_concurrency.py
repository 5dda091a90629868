"""One packed layer from many Python threads at once, in a forked child, and under changing numbers of threads."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import bitnet_jit
from bitnet_jit import reference

IN_FEATURES, OUT_FEATURES = 640, 1000


@pytest.fixture(scope="module")
def layer_and_codes():
    rng = np.random.default_rng(0)
    w_q = rng.integers(-1, 2, (OUT_FEATURES, IN_FEATURES)).astype(np.int8)
    layer = bitnet_jit.PackedBitLinear.from_codes(torch.from_numpy(w_q), torch.tensor(0.25))
    return layer, w_q


def expected(x, w_q):
    return torch.from_numpy(reference.bit_linear(x.numpy(), w_q, np.float32(0.25)))


def test_eight_threads_call_one_layer(layer_and_codes):
    layer, w_q = layer_and_codes
    inputs = [torch.randn(rows, IN_FEATURES) for rows in (1, 2, 3, 17, 64, 1, 33, 5)]
    wrong: list[str] = []
    start = threading.Barrier(len(inputs))

    def work(x):
        answer = expected(x, w_q)
        start.wait()
        for call in range(30):
            if not torch.equal(layer(x), answer):
                wrong.append(f"call {call} with {len(x)} rows")

    workers = [threading.Thread(target=work, args=(x,), daemon=True) for x in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not any(worker.is_alive() for worker in workers), "a call hangs"
    assert not wrong


@pytest.mark.parametrize("rows", [1, 64])
def test_number_of_threads_may_change_between_calls(layer_and_codes, rows):
    layer, w_q = layer_and_codes
    x = torch.randn(rows, IN_FEATURES)
    before = torch.get_num_threads()
    try:
        for number in (1, 2, 4, 1, 3):
            torch.set_num_threads(number)
            assert bitnet_jit.get_num_threads() == number
            assert torch.equal(layer(x), expected(x, w_q))
        bitnet_jit.set_num_threads(2)
        assert torch.equal(layer(x), expected(x, w_q))
    finally:
        bitnet_jit.set_num_threads(None)
        torch.set_num_threads(before)


FORK = """
import os, torch, bitnet_jit
torch.manual_seed(0)
torch.set_num_threads(2)
layer = bitnet_jit.BitLinear(640, 1000).pack()
inputs = [torch.randn(rows, 640) for rows in (1, 64)]
answers = [layer(x).numpy() for x in inputs]  # numpy compares in the child: torch's own loops would hang there
torch.randn(2000, 2000).sum()
child = os.fork()
if child == 0:
    os._exit(0 if all((layer(x).numpy() == answer).all() for x, answer in zip(inputs, answers)) else 3)
status = os.waitpid(child, 0)[1]
again = all((layer(x).numpy() == answer).all() for x, answer in zip(inputs, answers))
print(os.waitstatus_to_exitcode(status), again)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["0", "True"], result.stderr
