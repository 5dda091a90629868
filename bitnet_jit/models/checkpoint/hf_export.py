"""Ternary layers as tensors of the Hugging Face packed format, in either sense of its scale; and a model's config.json.

| linear_class    | weight           | weight_scale              | bias                                   |
|-----------------|------------------|---------------------------|----------------------------------------|
| "autobitlinear" | packed, 2 bits   | a multiplier, mean|w|     | divided by it: the reader multiplies it |
| "bitlinear"     | packed, 2 bits   | a divisor, 1 / mean|w|    | as it is                               |

A reader's 1 / weight_scale need not be the scale that we had; where a neighbour of it brings that back, it is taken.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.files import beside, write_beside_and_rename
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.nn import BitLinear, PackedBitLinear
from bitnet_jit.packing import CANONICAL

LinearClass = Literal["autobitlinear", "bitlinear"]
LINEAR_CLASSES = ("autobitlinear", "bitlinear")
MODEL_TYPES = {"relu2": ("bitnet", "BitNetForCausalLM"), "silu": ("llama", "LlamaForCausalLM")}


def packed_tensors(model: nn.Module, linear_class: LinearClass = "autobitlinear") -> dict[str, torch.Tensor]:
    """Every tensor of a model as the packed format has it, on the CPU.

    Args:
        model: `BitLinear` layers are packed here, `PackedBitLinear` layers are repacked; all else stays as it is.
        linear_class: the sense of the scale.

    Raises:
        InvalidInput: `linear_class` is unknown, or the format cannot hold a layer: scales of rows or groups, float
            activations, outputs that are no multiple of 4. The layer is named.
    """
    if linear_class not in LINEAR_CLASSES:
        raise InvalidInput(f"linear_class: expected one of {', '.join(LINEAR_CLASSES)}, got {linear_class!r}")
    found: dict[str, torch.Tensor] = {}
    inside: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BitLinear | PackedBitLinear):
            layer = module.pack() if isinstance(module, BitLinear) else module
            found |= layer_tensors(name, layer, linear_class)
            inside |= {f"{name}.{key}" for key in module.state_dict()}
    if not inside:
        raise InvalidInput(f"model: {type(model).__name__} has no ternary layer; make them with bitnet_jit.convert")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in inside}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in (found | rest).items()}


def layer_tensors(name: str, layer: PackedBitLinear, linear_class: LinearClass) -> dict[str, torch.Tensor]:
    """A layer's tensors by their names in the file."""
    if layer.scale != "tensor" or layer.activation != "a8" or layer.out_features % 4:
        raise InvalidInput(
            f"{name}: this format holds layers with one scale, int8 activations and a multiple of 4 outputs, "
            f"got scale={layer.scale!r}, activation={layer.activation!r}, out_features={layer.out_features}"
        )
    format = CANONICAL[layer.format].format
    codes = format.unpack(layer.state_dict()["w_packed"].cpu(), layer.in_features)
    scale = layer.w_scale.detach().cpu().float().reshape(1)
    multiplies = linear_class == "autobitlinear"
    found = {f"{name}.weight": pack_rows(codes), f"{name}.weight_scale": scale if multiplies else divisor_of(scale)}
    if layer.bias is not None:
        bias = layer.bias.detach().cpu()
        found[f"{name}.bias"] = (bias.float() / scale).to(bias.dtype) if multiplies else bias
    return found


def pack_rows(codes: torch.Tensor) -> torch.Tensor:
    """Codes -1..1 (N, K) int8 -> uint8 (N / 4, K), row i * N / 4 + j at bits 2i of byte row j.

    >>> pack_rows(torch.tensor([[-1], [0], [1], [0]], dtype=torch.int8)).item() == 0b01_10_01_00
    True
    """
    quarters = (codes + 1).to(torch.uint8).reshape(4, -1, codes.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def divisor_of(scale: torch.Tensor) -> torch.Tensor:
    """A float32 (1,) whose inverse is that scale, or as near to it as there is one."""
    first = torch.ones(1) / scale
    infinity = torch.tensor(float("inf"))
    near = [first, torch.nextafter(first, infinity), torch.nextafter(first, -infinity)]
    return min(near, key=lambda divisor: abs(float(torch.ones(1) / divisor) - float(scale)))


def quantization_config(linear_class: LinearClass) -> dict[str, Any]:
    """What config.json says of the layers."""
    return {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": "offline",
        "modules_to_not_convert": None,
    }


def config_json(config: DecoderConfig, linear_class: LinearClass) -> dict[str, Any]:
    """The config.json of a decoder, without stretched rotary positions."""
    model_type, architecture = MODEL_TYPES[config.activation]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": list(config.eos_ids) or None,
        "quantization_config": quantization_config(linear_class),
    }


def write_model(directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """model.safetensors, then config.json: a reader that finds the second finds the first."""
    with beside(directory / "model.safetensors") as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    write_beside_and_rename(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
