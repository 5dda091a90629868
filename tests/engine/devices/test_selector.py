"""Which device is chosen: the fastest that has room, of those that are there and named."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.engine import DeviceSelector, InferenceEngine
from bitnet_jit.engine.devices import speed as file
from bitnet_jit.engine.devices.speed import Speed, measured_speed
from bitnet_jit.errors import InvalidInput, OutOfMemory

CPU, ONE, TWO, APPLE = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1", "mps:0"))
ALL = (ONE, TWO, APPLE, CPU)
SPEEDS = {  # a CPU that begins at once and computes slowly
    CPU: Speed(1e-6, 1e11, 1e11),
    ONE: Speed(1e-4, 1e13, 1e14),
    TWO: Speed(1e-4, 1e13, 1e14),
    APPLE: Speed(1e-4, 1e12, 1e12),
}
FREE = {CPU: 2**36, ONE: 2**33, TWO: 2**34, APPLE: 2**30}


def make(mode="auto", device=None, devices=ALL, speeds=SPEEDS):
    return DeviceSelector(mode, device, devices, speeds.get, FREE.get)


def test_the_fastest_is_chosen_and_of_twins_the_one_with_more_memory():
    assert make().select() == TWO
    assert make(devices=(CPU, ONE)).select() == ONE
    assert [score.device for score in make().scores()] == [TWO, ONE, APPLE, CPU]
    assert make(speeds={**SPEEDS, CPU: Speed(0, 1e20, 1e20)}).select() == CPU  # by measurement, not by name


def test_devices_that_do_not_work_are_passed_over():
    assert make(speeds={CPU: SPEEDS[CPU]}).select() == CPU
    with pytest.raises(InvalidInput, match="device: none of cuda:0, cuda:1, mps:0, cpu runs packed layers"):
        make(speeds={}).select()


@pytest.mark.parametrize(
    ("params", "batch", "memory", "device"),
    [
        (10_000, 1, None, CPU),  # a GPU takes longer to begin
        (10_000, 10_000, None, TWO),
        (2**31, 1, None, TWO),
        (2**31, 1, 2**34 + 1, CPU),
        (2**36, 1, None, TWO),
        (2**37, 1, None, CPU),
        (10_000, 10_000, 0, TWO),
    ],
)
def test_the_fastest_with_room_is_recommended(params, batch, memory, device):
    assert make().recommend_device(params, batch, memory) == device


@given(params=st.integers(1, 2**50), batch=st.integers(1, 10**6), memory=st.one_of(st.none(), st.integers(0, 2**40)))
def test_what_is_recommended_has_room_and_is_the_fastest_of_those(params, batch, memory):
    needed = -(-params // 4) if memory is None else memory
    fitting = [device for device in ALL if FREE[device] >= needed]
    if not fitting:
        with pytest.raises(OutOfMemory, match="free on no device"):
            make().recommend_device(params, batch, memory)
        return
    chosen = make().recommend_device(params, batch, memory)
    assert chosen in fitting
    assert all(SPEEDS[chosen].seconds(params, batch) <= SPEEDS[one].seconds(params, batch) for one in fitting)


def test_where_no_device_has_room_the_error_tells_what_each_has():
    with pytest.raises(OutOfMemory, match=r"1\.0 TiB are free on no device \(.*cpu: .* ms, 64\.0 GiB free"):
        make().recommend_device(2**20, 1, 2**40)


@pytest.mark.parametrize("mode", ["prefer", "force"])
def test_what_is_named_is_taken(mode):
    assert make(mode, "cpu").select() == CPU
    assert make(mode, "cuda").select() == TWO
    assert make(mode, "cuda:0").select() == ONE
    assert make(mode, torch.device("cuda", 1)).select() == TWO
    assert make(mode, "mps").select() == APPLE
    assert make(mode, "cpu").recommend_device(2**31, 64) == CPU


def test_what_is_preferred_and_absent_gives_way_and_is_logged(caplog):
    assert make("prefer", "cuda:7").select() == TWO
    assert "cuda:7 was preferred and is not here; there are cuda:0, cuda:1, mps:0, cpu" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("force", "cuda:7"), "device: expected one of cuda:0, cuda:1, mps:0, cpu, got 'cuda:7'"),
        (("force", "mlx"), "got 'mlx'; MLX is no device of torch: see bitnet_jit.mlx, or name mps"),
        (("force", ""), "got ''"),
        (("force",), "device: expected a device with mode='force', got None"),
        (("auto", "cpu"), "device: expected no device with mode='auto', got 'cpu'"),
        (("fastest",), "mode: expected one of auto, prefer, force, got 'fastest'"),
        (("prefer", 3), "device: expected such as 'cuda:0', got 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        make(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "num_params: expected"),
        ((1, 0), "batch: expected"),
        ((1, 1, -1), "memory_bytes: expected"),
        ((1, 1, 0.5), "memory_bytes: expected"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        make().recommend_device(*arguments)


def test_a_device_is_measured_once(monkeypatch):
    monkeypatch.setattr(file, "SPEEDS", {})
    monkeypatch.setattr(file, "LARGE", 2048)
    speed = measured_speed(CPU)
    assert 0 < speed.overhead < 0.1
    assert 1e7 < speed.read < 1e15
    assert 1e7 < speed.computed < 1e16
    start = time.perf_counter()
    assert measured_speed(CPU) is speed
    assert time.perf_counter() - start < 0.01
    slow = Speed(*(value for value in (speed.overhead, speed.read, speed.computed)))
    assert slow.seconds(10**9, 64) > slow.seconds(10**6, 64) > slow.seconds(1, 1) > 0


def test_a_device_that_cannot_be_measured_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(file, "SPEEDS", {})
    monkeypatch.setattr(file, "measure", lambda device: 1 / 0)
    assert measured_speed(CPU) is None
    assert "cpu runs no packed layer and is passed over: division by zero" in caplog.text


def test_memory_is_asked_of_the_device():
    (score,) = DeviceSelector("force", "cpu").scores(10**6, 3)
    assert 0 < score.free_bytes < 2**50
    assert 0 < score.seconds < 10


def test_an_engine_has_the_device_that_is_chosen(monkeypatch):
    with InferenceEngine() as engine:
        assert engine.device == DeviceSelector().select()
        monkeypatch.setattr("bitnet_jit.engine.engine.DeviceSelector", lambda: make(devices=(ONE, CPU)))
        assert engine.device == ONE
