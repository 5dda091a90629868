"""`CudaCopies` by the calls that it makes: a stand-in for torch.cuda notes them in their order."""

from contextlib import contextmanager

import pytest
import torch

from bitnet_jit.devices.copies import CudaCopies
from bitnet_jit.devices.cuda import CUDA

CPU = torch.device("cpu")


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class Event:
    def __init__(self, log, timing):
        assert timing  # bandwidth is counted
        self.log, self.is_over = log, False

    def record(self, stream):
        self.log.append(f"event on {stream.name}")

    def query(self):
        return self.is_over

    def synchronize(self):
        self.is_over = True

    def elapsed_time(self, other):
        return 2.0


@pytest.fixture
def log(monkeypatch):
    """Replace torch.cuda's streams and events, and what tells its allocator of a stream."""
    lines, names = [], iter(("up", "down"))
    real = torch.Tensor.copy_

    @contextmanager
    def on(stream):
        lines.append(f"on {stream.name}")
        yield
        lines.append("off")

    def copy(out, source, non_blocking=False):
        lines.append("copy" if non_blocking else "blocking copy")
        return real(out, source)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(lines, next(names)))
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(lines, enable_timing))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(lines, "current"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: lines.append(f"kept for {stream.name}"))
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    return lines


COPY_UP = ["on up", "event on up", "copy", "event on up", "off"]
COPY_DOWN = ["on down", "event on down", "copy", "event on down", "off"]


def test_the_device_waits_for_what_was_sent(log):
    copies = CudaCopies(CPU)
    x = copies.empty((2, 3), torch.float16)
    assert (x.shape, x.dtype) == ((2, 3), torch.float16)
    assert log == ["on up", "off"]  # so the copying stream may write it at once
    log.clear()
    copy = copies.send(torch.ones(2, 3, dtype=torch.float16), x)
    assert log == COPY_UP
    log.clear()
    copies.use(x)
    assert log == ["current waits for up", "kept for current"]
    assert bool((x == 1).all())
    assert not copy.query()
    copy.synchronize()
    assert copy.query()
    assert copy.seconds() == 0.002


def test_a_result_is_copied_behind_what_makes_it(log):
    copies, host = CudaCopies(CPU), torch.zeros(3)
    y = torch.ones(3)
    assert copies.holds(y)
    assert not copies.holds(torch.ones(3, device="meta"))
    copies.receive(y, host)
    assert log == ["down waits for current", "kept for down", *COPY_DOWN]
    assert torch.equal(host, y)


@pytest.mark.usefixtures("log")
def test_a_device_has_its_copies_once():
    CUDA.copies.cache_clear()
    try:
        assert CUDA.copies(CPU) is CUDA.copies(CPU)
    finally:
        CUDA.copies.cache_clear()
