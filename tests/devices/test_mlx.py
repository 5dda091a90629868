"""MLX's default device: a type of problems, and no device of torch."""

import pytest
import torch

from bitnet_jit.devices.kinds import available_types, kind_named
from bitnet_jit.devices.mlx import MLX, to_array, to_tensor
from bitnet_jit.engine.devices.backends import all_devices
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.tune import tune

mx = pytest.importorskip("mlx.core", reason="needs MLX: pip install 'mlx[cpu]'")


def test_it_is_no_device_of_torch():
    assert kind_named("mlx") is MLX
    assert "mlx" not in available_types()
    assert {device.type for device in all_devices()} <= set(available_types())


def test_what_is_known_of_a_cpu():
    if mx.default_device().type == mx.DeviceType.gpu:
        pytest.skip("MLX has a GPU here")
    info = mx.device_info()
    assert MLX.name(None).startswith(f"{info['device_name']}/{info['architecture']}/mlx ")
    assert MLX.gpu(None) is None
    assert MLX.total_memory(None) == kind_named("cpu").total_memory(torch.device("cpu"))
    MLX.synchronize()


def test_what_is_known_of_a_gpu(monkeypatch):
    info = {"device_name": "Apple M3", "architecture": "applegpu_g15g", "memory_size": 2**34}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    assert (MLX.gpu(None).name, MLX.gpu(None).arch) == ("Apple M3", "applegpu_g15g")
    assert MLX.total_memory(None) == 2**34


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.int64])
def test_tensors_become_arrays_and_come_back(dtype):
    tensor = (torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    assert torch.equal(to_tensor(to_array(tensor.T)), tensor.T)
    assert to_array(None) is None


def test_calls_are_timed_on_arrays_and_tuned():
    problem = Problem("bit_linear", "mlx", 1, 64, 128, "i2/words", "a8", scale="tensor", device=MLX.name(None))
    seen = []

    def call(*arguments):
        seen.append([type(a).__name__ for a in arguments])
        return arguments[0]

    times = MLX.measure([call], [(torch.ones(1), None)])((0,), 0.0)
    assert min(times[0]) > 0
    assert set(map(tuple, seen)) == {("array", "NoneType")}
    tuned = tune(problem)
    assert tuned is None or tuned.kernel.startswith("mlx.")
