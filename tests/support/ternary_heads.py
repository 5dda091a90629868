"""Small checkpoints whose head, or tied embedding, is exactly ternary times a scale."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bitnet_jit.quant import dequantize_weight

GROUP = 128  # inputs per scale, where rows have several
SCALES = ("tensor", "row", "group")


def ternary(rows: int, inputs: int, scale: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    """Return floats (rows, inputs) that are ternary times scales; the third row is zero, and a group of the fourth."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"tensor": (), "row": (rows,), "group": (rows, -(-inputs // GROUP))}[scale]
    w_scale = (torch.rand(shape, generator=generator) + 0.25).to(dtype).float()
    w_q = torch.randint(-1, 2, (rows, inputs), generator=generator, dtype=torch.int8)
    w_q[2:3] = 0
    w_q[3:4, :GROUP] = 0
    return dequantize_weight(w_q, w_scale, GROUP if scale == "group" else 0).to(dtype)


def make_head_ternary(folder: Path, scale: str) -> Path:
    """Replace the head of a checkpoint of one file, or its embedding where that is the head, by a ternary one."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    tensors[name] = ternary(*tensors[name].shape, scale, tensors[name].dtype)
    save_file(tensors, file)
    return folder
