"""Replicas and stand-ins on real GPUs; who loses a context loses CUDA in all of its process, so that has its own."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from failing_child import ASSERTS
from served import wait_until
from tensor_modules import K, packed

import bitnet_jit
from bitnet_jit.engine import DeviceSelector, EngineConfig, InferenceEngine
from bitnet_jit.engine.devices.fallback import Fallback, copy_to_cpu
from bitnet_jit.engine.text.processes import process as process_file

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
import contextlib
import os
import torch
import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.errors import DeviceFailed

engine = InferenceEngine()
model = engine.add_model("tiny", bitnet_jit.load(device="cuda:0"))
texts = [engine.submit("tiny", list(range(3 + index)), 400) for index in range(5)]
next(iter(texts[0]))
with contextlib.suppress(RuntimeError):  # what is asked of a device may meet its assert before this line has ended
    torch.zeros(4, device="cuda:0")[torch.tensor([10**6], device="cuda:0")].sum()
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


@pytest.mark.parametrize("devices", [["cuda:0"], pytest.param(["cuda:0", "cuda:1"], marks=TWO)])
def test_a_lost_context_costs_its_process_alone(monkeypatch, caplog, devices):
    """A real assert of the device ends CUDA in that process; all texts are written, on the other GPU or anew."""
    monkeypatch.setattr(process_file, "CHILD", "failing_child")
    prompts = [[ASSERTS, 1, 2], *(list(b"And it came to pass"[: 3 + index]) for index in range(11))]
    decoder = bitnet_jit.load(device="cuda:0")
    alone = [decoder.generate(prompt, 60).tolist()[len(prompt) :] for prompt in prompts]
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        members = engine.load_model(None, "tiny", devices=devices).result().replica.members
        assert [str(member.device) for member in members] == devices
        texts = [engine.submit("tiny", prompt, 60) for prompt in prompts]
        assert [text.result(WAIT).tokens for text in texts] == alone
        wait_until(lambda: all(member.is_ready for member in members), WAIT)
        again = [engine.submit("tiny", prompt, 60) for prompt in prompts[1:]]
        assert [text.result(WAIT).tokens for text in again] == alone[1:]
        stats = engine.stats()["tiny"]
        assert (stats.replicas_alive, stats.restarts, stats.finished, stats.failed) == (len(devices), 1, 23, 0)
    assert torch.zeros(3, device="cuda:0").sum().item() == 0, "the engine's process has its context"
    (words,) = [record.getMessage() for record in caplog.records if "started anew" in record.getMessage()]
    assert "exit code 1" in words


@TWO
def test_a_process_that_is_killed_costs_no_text():
    """Several GPUs have processes unless the config says otherwise."""
    prompts = [list(b"And it came to pass"[: 3 + index]) for index in range(12)]
    decoder = bitnet_jit.load(device="cuda:0")
    alone = [decoder.generate(prompt, 300).tolist()[len(prompt) :] for prompt in prompts]
    with InferenceEngine() as engine:
        members = engine.load_model(None, "tiny", devices=["cuda:0", "cuda:1"]).result().replica.members
        texts = [engine.submit("tiny", prompt, 300) for prompt in prompts]
        next(iter(texts[0]))
        os.kill(members[0].pid, signal.SIGKILL)
        assert [text.result(WAIT).tokens for text in texts[1:]] == alone[1:]
        wait_until(lambda: members[0].is_ready, WAIT)
        assert engine.stats()["tiny"].failed == 0


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
