"""MLX's default device: the type of problems on its arrays, which torch does not know.

Torch tensors for its calls lie on the CPU, so that it is no device of torch: `count` is 0. Its memory is the machine's,
as Apple's GPUs share it with the CPU, unless MLX says otherwise.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from bitnet_jit.devices.clock import Measure, measure_by_clock
from bitnet_jit.devices.kind import DeviceKind
from bitnet_jit.problem import Gpu
from bitnet_jit.system.memory import total_memory

NAME = "mlx"


def information() -> dict[str, Any]:
    """Return what MLX says of its default device."""
    import mlx.core as mx

    return dict(mx.device_info())


def on_gpu() -> bool:
    """Return whether MLX's default device is a GPU."""
    import mlx.core as mx

    kind: mx.DeviceType = mx.default_device().type
    return kind == mx.DeviceType.gpu


def fingerprint() -> str:
    """Return the name of MLX's default device, its architecture, and MLX's version."""
    info = information()
    return f"{info.get('device_name', 'unknown')}/{info.get('architecture', 'unknown')}/mlx {version('mlx')}"


def find_gpu() -> Gpu | None:
    """Return what kernels may know of MLX's GPU; None where its default device is a CPU."""
    if not on_gpu():
        return None
    info = information()
    return Gpu(str(info.get("device_name", "")), str(info.get("architecture", "")), 0, 0)


def memory_bytes() -> int:
    """Return the bytes of the device's memory, which is the machine's where MLX does not say."""
    said = information().get("memory_size", 0) if on_gpu() else 0
    return int(said) or total_memory()


def synchronize() -> None:
    """Wait until MLX has done all that it was told."""
    import mlx.core as mx

    mx.synchronize()


def measure(calls: Sequence[Callable[..., Any]], sets: Sequence[tuple[Any, ...]]) -> Measure:
    """Return what times calls on MLX's arrays, to which sets of torch tensors are turned before."""
    return measure_by_clock([evaluated(call) for call in calls], [tuple(map(to_array, values)) for values in sets])


def evaluated(call: Callable[..., Any]) -> Callable[..., None]:
    """Return a call that waits for its results: MLX computes nothing before somebody asks for it."""
    import mlx.core as mx

    return lambda *arguments: mx.eval(call(*arguments))


def to_array(value: Any) -> Any:
    """Return a torch tensor as an array; what is no tensor as it is."""
    if not hasattr(value, "data_ptr"):
        return value
    import mlx.core as mx
    import torch

    tensor = value.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return mx.view(mx.array(tensor.view(torch.int16).numpy()), mx.bfloat16)
    return mx.array(tensor.numpy())


def to_tensor(array: Any) -> Any:
    """Return an array as a torch tensor on the CPU."""
    import mlx.core as mx
    import numpy as np
    import torch

    if array.dtype == mx.bfloat16:
        return torch.from_numpy(np.array(mx.view(array, mx.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


MLX = DeviceKind(
    NAME,
    fingerprint=lambda device: fingerprint(),
    gpu=lambda device: find_gpu(),
    synchronize=synchronize,
    total_memory=lambda device: memory_bytes(),
    measure=measure,
    default_dtype="float16",
    tensors="cpu",
)
