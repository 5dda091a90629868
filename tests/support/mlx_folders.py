"""Folders as mlx-lm writes them, made of folders of floats that are ternary already."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import load_file, save_file

TABLES = ("model.embed_tokens", "lm_head")


def as_mlx(
    folder: Path, target: Path, group_size: int = 32, tables: int = 0, changes: dict[str, Any] | None = None
) -> Path:
    """Write a folder anew with weights of 2 bits; embedding and head get so many bits, or stay floats."""
    target.mkdir()
    config = json.loads((folder / "config.json").read_text())
    quantization = {"group_size": group_size, "bits": 2, "mode": "affine"}
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        path = name.removesuffix(".weight")
        if path in TABLES and tables != 2:
            quantization[path] = {"group_size": group_size, "bits": tables} if tables else False
            tensors |= quantized(path, tensor, group_size, tables) if tables else {name: tensor}
        elif path in TABLES or path.endswith("_proj") and name.endswith(".weight"):
            tensors |= ternary(path, tensor, group_size)
        else:
            tensors[name] = tensor
    config["quantization"] = quantization | (changes or {})
    (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model.safetensors", {"format": "mlx"})
    return target


def ternary(path: str, weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:
    """Pack floats that are ternary times a scale per group, others roughly; element by element."""
    groups = weight.float().numpy().reshape(len(weight), -1, group_size)
    scales = np.abs(groups).max(2)
    codes = (np.sign(groups) * (np.abs(groups) > scales[:, :, None] / 4) + 1).astype(np.uint32)
    words = codes.reshape(len(weight), -1, 16)
    packed = sum(words[:, :, place] << np.uint32(2 * place) for place in range(16)).astype(np.uint32)
    scale = torch.from_numpy(scales).to(weight.dtype)
    return {f"{path}.weight": torch.from_numpy(packed), f"{path}.scales": scale, f"{path}.biases": -scale}


def quantized(path: str, weight: torch.Tensor, group_size: int, bits: int) -> dict[str, torch.Tensor]:
    """Quantize floats as MLX does."""
    parts = mx.quantize(mx.array(weight.float().numpy()), group_size, bits)
    names = ("weight", "scales", "biases")
    return {f"{path}.{name}": torch.from_numpy(np.array(part)) for name, part in zip(names, parts, strict=True)}


def dequantized(folder: Path, path: str) -> np.ndarray:
    """Return a module's numbers as MLX reads them."""
    tensors = load_file(folder / "model.safetensors")
    weight, scales, biases = (tensors[f"{path}.{name}"] for name in ("weight", "scales", "biases"))
    floats = (mx.array(part.float().numpy()) for part in (scales, biases))
    config = json.loads((folder / "config.json").read_text())["quantization"]
    size = config.get(path, config)
    return np.array(mx.dequantize(mx.array(weight.numpy()), *floats, size["group_size"], size["bits"]))


def logits_of_mlx(folder: Path, ids: list[int]) -> np.ndarray:
    """Return the logits (T, V) of mlx-lm's own model, on the CPU in float32."""
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([ids]))[0])
