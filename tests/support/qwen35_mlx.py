"""Small Qwen3.5 models as folders of mlx-lm."""

import json
from pathlib import Path
from typing import Any

import torch
from mlx_folders import ternary as mlx_ternary
from qwen35_models import ternary
from safetensors.torch import save_file
from transformers import Qwen3_5ForCausalLM


def as_prism_mlx(model: Qwen3_5ForCausalLM, folder: Path, block: int, **changes: Any) -> Path:
    """Write a model, whose layers count as folded, as mlx-lm's `prism_hadamard_qwen35`; signs are drawn by widths."""
    modules, tensors, signs = [], {}, {}
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.state_dict().items():
        path = name.removesuffix(".weight")
        place = f"language_model.{path}"
        if weight.dim() != 2 or any(word in name for word in ("in_proj_b", "in_proj_a")):
            whole = weight + 1 if "norm" in path and "linear_attn" not in path else weight
            tensors[f"language_model.{name}"] = whole.movedim(1, 2) if "conv1d" in name else whole
            continue
        width = weight.shape[1]
        if width not in signs:
            signs[width] = 1 - 2.0 * torch.randint(0, 2, (width,), generator=generator)
        tensors |= mlx_ternary(place, ternary(weight, 128).half(), 128) | {f"{place}.signs": signs[width].clone()}
        embedding = path.endswith("embed_tokens")
        modules.append({"path": path, "block": block, "embedding": embedding, "dtype": "float16"})
    config = {
        "model_type": "prism_hadamard_qwen35",
        "base_model_type": "qwen3_5",
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "gdn_activation_layout": "grouped",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "tie_word_embeddings": False,
        "text_config": json.loads(model.config.to_json_string(use_diff=False)),
        "modules": modules,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder
