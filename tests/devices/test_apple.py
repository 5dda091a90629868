"""Apple's chips, and their GPUs as torch has them, by what a Mac would say."""

import re
from types import SimpleNamespace

import pytest
import torch

from bitnet_jit.devices import apple, mps
from bitnet_jit.devices.apple import CHIPS, chip_of, describe_chip, sysctl
from bitnet_jit.devices.clock import Measure
from bitnet_jit.devices.kinds import KINDS, find_gpu, fingerprint, kind_of
from bitnet_jit.engine.devices.backends import DeviceBackend
from bitnet_jit.kernels.mps import BACKEND

MPS = torch.device("mps")


@pytest.fixture
def m2_max(monkeypatch):
    """Have torch tell of a Mac with an M2 Max of 30 GPU cores."""
    monkeypatch.setattr(mps, "chip_name", lambda: "Apple M2 Max")
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: 30, raising=False)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 48 << 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 12 << 30)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    for cached in (mps.core_count, fingerprint):
        cached.cache_clear()
    yield
    for cached in (mps.core_count, fingerprint):
        cached.cache_clear()


def test_every_generation_is_faster_than_the_one_before():
    names = {name: re.fullmatch(r"Apple M(\d)( Pro| Max| Ultra)?", name).groups() for name in CHIPS}
    for suffix in (None, " Pro", " Max", " Ultra"):
        chips = [CHIPS[name] for name in sorted(CHIPS, key=lambda name: names[name][0]) if names[name][1] == suffix]
        assert [chip.operations for chip in chips] == sorted(chip.operations for chip in chips)
    assert all(50e9 < chip.bandwidth < 1e12 and 1e12 < chip.operations < 50e12 for chip in CHIPS.values())


def test_fewer_cores_do_less():
    assert chip_of("Apple M1", 7).operations == pytest.approx(2.6e12 * 7 / 8)
    assert chip_of("Apple M1", 7).bandwidth == chip_of("Apple M1").bandwidth
    assert (chip_of("Apple M5 Max", 32).bandwidth, chip_of("Apple M5 Max", 40).bandwidth) == (460e9, 614e9)
    assert describe_chip("Apple M99", 8) == {}


def test_nothing_is_asked_where_it_is_no_mac(monkeypatch):
    monkeypatch.setattr(apple.sys, "platform", "linux")
    apple.chip_name.cache_clear()
    assert apple.chip_name() == ""
    assert sysctl("machdep.cpu.brand_string") == "" or apple.sys.platform == "darwin"


def test_the_kernel_of_macos_is_asked(monkeypatch):
    def sysctlbyname(name, content, size, *_):
        content.value = b"Apple M3 Pro"
        return name != b"machdep.cpu.brand_string"

    monkeypatch.setattr(apple.ctypes, "CDLL", lambda name: SimpleNamespace(sysctlbyname=sysctlbyname))
    assert sysctl("machdep.cpu.brand_string") == "Apple M3 Pro"
    assert sysctl("hw.unknown") == ""
    monkeypatch.setattr(apple.sys, "platform", "darwin")
    apple.chip_name.cache_clear()
    assert apple.chip_name() == "Apple M3 Pro"
    apple.chip_name.cache_clear()


@pytest.mark.usefixtures("m2_max")
def test_what_is_known_of_a_gpu():
    gpu = find_gpu(MPS)
    assert (gpu.name, gpu.multiprocessors, gpu.shared_memory) == ("Apple M2 Max", 30, 32768)
    assert fingerprint(MPS).startswith("Apple M2 Max/30/")
    assert kind_of(MPS).table(gpu) == "apple-m2-max"
    assert kind_of(MPS).describe(MPS) == {
        "name": "Apple M2 Max",
        "cores": "30",
        "memory": "400 GB/s (published)",
        "float32": "10.7 TFLOP/s (published)",
    }
    memory = DeviceBackend(MPS).memory_usage()
    assert (memory.total_bytes, memory.used_bytes, memory.unified) == (48 << 30, 12 << 30, True)


@pytest.mark.usefixtures("m2_max")
def test_the_roofline_is_the_published_one(monkeypatch):
    rates = BACKEND.measure_rates(MPS, 0)
    assert (rates.bytes, rates.origin) == (400e9, "published of Apple M2 Max")
    monkeypatch.setattr(mps, "chip_name", lambda: "Apple M99")
    monkeypatch.setattr("bitnet_jit.kernels.torch.limits.READ_BYTES", 1 << 12)
    assert BACKEND.measure_rates(torch.device("cpu"), 0).origin == "measured here"


@pytest.mark.usefixtures("m2_max")
def test_calls_are_waited_for_when_they_are_timed(monkeypatch):
    done = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: done.append("waited"))
    measure: Measure = kind_of(MPS).measure([lambda x: done.append(x)], [("called",)])
    (times,) = measure([0], 0.0)
    assert len(times) >= 5
    assert done[:2] == ["called", "waited"]


def test_an_old_torch_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("bitnet_jit.kernels.mps.version", lambda name: "2.6.0")
    assert BACKEND.disabled_reason() == (
        "needs torch 2.7 or newer for torch.mps.compile_shader, got 2.6.0; upgrade torch"
    )
    for newer in ("2.7.0", "2.13.0+cpu", "3.0"):
        monkeypatch.setattr("bitnet_jit.kernels.mps.version", lambda name, newer=newer: newer)
        assert BACKEND.disabled_reason() is None
    assert KINDS["mps"].unified
