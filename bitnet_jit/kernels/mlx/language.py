"""What MLX runs on here: Metal, CUDA, or the CPU alone."""

import mlx.core as mx

from bitnet_jit.devices.apple import describe_chip


def language() -> str | None:
    """Return the dialect of kernels for MLX's default device: "metal" or "cuda"; None where that is a CPU."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else None


def unsupported_reason() -> str | None:
    """Return why kernels from source cannot run, or None."""
    if language() is None:
        return f"needs a GPU as MLX's default device, which is {mx.default_device()}"
    return None


def describe() -> dict[str, str]:
    """Return what MLX runs on, for people."""
    info = {key: str(value) for key, value in mx.device_info().items()} if language() else {}
    kept: dict[str, str] = {key: info[key] for key in ("device_name", "architecture") if key in info}
    kept |= describe_chip(info.get("device_name", ""), 0)
    return {"kernels": {"metal": "Metal", "cuda": "CUDA", None: "MLX's own, on the CPU"}[language()]} | kept
