"""Replicas and stand-ins on real GPUs; who loses a context loses CUDA in all of its process, so that has its own."""

import subprocess
import sys

import pytest
import torch
from tensor_modules import K, packed

import bitnet_jit
from bitnet_jit.engine import DeviceSelector, InferenceEngine
from bitnet_jit.engine.devices.fallback import Fallback, copy_to_cpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
WAIT = 60

FAILING = """
import logging
import torch
import bitnet_jit
from bitnet_jit.engine import InferenceEngine

logging.basicConfig(level=logging.ERROR)
decoders = [bitnet_jit.load(device=f"cuda:{index}") for index in (0, 1)]
prompts = [list(b"And it came to pass in those days"[: 3 + index]) for index in range(12)]
alone = [decoders[1].generate(prompt, 60).tolist()[len(prompt):] for prompt in prompts]
with InferenceEngine() as engine:
    model = engine.add_model("tiny", decoders[0], replicas=decoders[1:])
    runner = model.replica.members[0]._runner
    advance, steps = runner.advance, 0

    def failing(*arguments):
        global steps
        steps += 1
        if steps == 20:
            raise torch.AcceleratorError("CUDA error: it was injected")
        return advance(*arguments)

    runner.advance = failing
    texts = [engine.submit("tiny", prompt, 60) for prompt in prompts]
    assert [text.result(60).tokens for text in texts] == alone
    stats = engine.stats()["tiny"]
    assert (stats.replicas_alive, stats.finished, stats.failed) == (1, 12, 0), stats
print("all texts are there", flush=True)
import os
os._exit(0)  # what ends a process asks the device that failed
"""


def test_two_workers_on_one_gpu_write_what_one_writes():
    decoder = bitnet_jit.load(device="cuda:0")
    prompts = [list(b"And it came to pass"[: 3 + index]) for index in range(12)]
    alone = [decoder.generate(prompt, 50).tolist()[len(prompt) :] for prompt in prompts]
    with InferenceEngine() as engine:
        engine.add_model("tiny", decoder, replicas=[decoder])
        texts = [engine.submit("tiny", prompt, 50) for prompt in prompts]
        assert [text.result(WAIT).tokens for text in texts] == alone


LOST = """
import os
import torch
import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.errors import DeviceFailed

engine = InferenceEngine()
model = engine.add_model("tiny", bitnet_jit.load(device="cuda:0"))
texts = [engine.submit("tiny", list(range(3 + index)), 400) for index in range(5)]
next(iter(texts[0]))
torch.zeros(4, device="cuda:0")[torch.tensor([10**6], device="cuda:0")].sum()  # the device asserts
failures = 0
for text in texts:
    try:
        text.result(60)
    except DeviceFailed as error:
        failures += 1
assert failures == 5, failures
assert not engine.stats()["tiny"].alive
print("all were told", flush=True)
os._exit(0)  # what ends a process asks the device that failed
"""


def test_requests_are_told_where_a_context_is_lost():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=300)
    assert "all were told" in done.stdout, done.stderr


@TWO
def test_texts_go_on_on_the_other_gpu_where_one_fails():
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, timeout=300)
    assert "all texts are there" in done.stdout, done.stderr
    assert "tiny on cuda:0 is out" in done.stderr


def test_the_cpu_makes_a_call_that_does_not_fit(caplog):
    layer, fallback = packed().to("cuda:0"), Fallback()
    x = torch.randn(5, K)
    expected = packed()(x)
    torch.testing.assert_close(copy_to_cpu(layer)(x), expected, rtol=0, atol=0)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        rows = x.repeat(200_000, 1)
        y = fallback.infer(layer, rows)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "too little memory for a call, which the CPU makes" in caplog.text
    torch.testing.assert_close(y[:5], expected, rtol=0, atol=0)
    torch.testing.assert_close(fallback.infer(layer, x), expected)


def test_a_gpu_is_the_faster_one():
    assert DeviceSelector().recommend_device(2**30, batch=64).type == "cuda"
    assert DeviceSelector("force", "cpu").select().type == "cpu"
    assert DeviceSelector().scores()[0].device.type == "cuda"
