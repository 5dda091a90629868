"""Ternary layers as tensors of a format on disk, and a model's config.json.

| format          | weight                      | weight_scale           | bias                                    |
|-----------------|-----------------------------|------------------------|-----------------------------------------|
| "autobitlinear" | Hugging Face's, 2 bits      | a multiplier, mean|w|  | divided by it: the reader multiplies it |
| "bitlinear"     | Hugging Face's, 2 bits      | a divisor, 1 / mean|w| | as it is                                |
| "i2", "t5"      | ours, 2 bits or 1.6         | a multiplier, mean|w|  | as it is                                |

A reader's 1 / weight_scale need not be the scale that we had; where a neighbour of it brings that back, it is taken.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.files import beside, write_beside_and_rename
from bitnet_jit.models.checkpoint.own_format import own_config
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.nn import BitLinear, PackedBitLinear
from bitnet_jit.nn.convert import pack_named
from bitnet_jit.nn.rms_norm import INSIDE, norm_inside
from bitnet_jit.packing import FORMATS

FORMATS_ON_DISK = ("autobitlinear", "bitlinear", "i2", "t5")
MODEL_TYPES = {"relu2": ("bitnet", "BitNetForCausalLM"), "silu": ("llama", "LlamaForCausalLM")}


def packed_tensors(model: nn.Module, format: str = "autobitlinear") -> dict[str, torch.Tensor]:
    """Every tensor of a model as a format has it, on the CPU.

    Args:
        model: `BitLinear` layers are packed here, `PackedBitLinear` layers are repacked; all else stays as it is.
        format: one of those above.

    Raises:
        InvalidInput: `format` is unknown, or the format cannot hold a layer: scales of rows or groups, float
            activations, outputs that are no multiple of 4. The layer is named.
    """
    check_format(format)
    found: dict[str, torch.Tensor] = {}
    inside: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BitLinear | PackedBitLinear):
            layer = pack_named(name, module) if isinstance(module, BitLinear) else module
            found |= layer_tensors(name, layer, format)
            inside |= {f"{name}.{key}" for key in module.state_dict()}
    if not inside:
        raise InvalidInput(f"model: {type(model).__name__} has no ternary layer; make them with bitnet_jit.convert")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in inside}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in (found | rest).items()}


def check_format(format: str) -> None:
    """Raise InvalidInput where there is no such format."""
    if format not in FORMATS_ON_DISK:
        raise InvalidInput(f"format: expected one of {', '.join(FORMATS_ON_DISK)}, got {format!r}")


def layer_tensors(name: str, layer: PackedBitLinear, format: str) -> dict[str, torch.Tensor]:
    """A layer's tensors by their names in the file."""
    if layer.scale != "tensor" or layer.activation != "a8":
        raise InvalidInput(
            f"{name}: this format holds layers with one scale and int8 activations, "
            f"got scale={layer.scale!r}, activation={layer.activation!r}"
        )
    codes, scale = layer.unpack()
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    found = encoded(name, codes.cpu(), scale.cpu().float().reshape(1), bias, format)
    if (norm := norm_inside(layer)) is not None:
        found[f"{name}.{INSIDE}.weight"] = norm.weight
    return found


def eps_inside(model: nn.Module, format: str) -> float | None:
    """The eps of the norms inside the ternary layers, None where there are none.

    Raises:
        InvalidInput: a file of the format cannot tell: some layers have a norm, or they differ, or the format is ours.
    """
    layers = (module for module in model.modules() if isinstance(module, BitLinear | PackedBitLinear))
    epses = {None if (norm := norm_inside(layer)) is None else norm.eps for layer in layers}
    if epses == {None}:
        return None
    if len(epses) > 1 or format in FORMATS:
        raise InvalidInput(
            f"model: format {format!r} cannot hold the norms inside its layers; autobitlinear and bitlinear hold one "
            f"in every ternary layer, with one eps, found {', '.join(map(str, sorted(epses, key=str)))}"
        )
    return epses.pop()


def encoded(
    name: str, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, format: str
) -> dict[str, torch.Tensor]:
    """The tensors of a layer: codes int8 (N, K), scale float32 (1,), bias (N,) or None."""
    found = {f"{name}.weight_scale": divisor_of(scale) if format == "bitlinear" else scale}
    if format in FORMATS:
        found[f"{name}.weight"] = FORMATS[format].pack(codes)
    elif codes.shape[0] % 4:
        raise InvalidInput(
            f"{name}: format {format!r} holds a multiple of 4 outputs, got {codes.shape[0]}; i2 and t5 any"
        )
    else:
        found[f"{name}.weight"] = pack_rows(codes)
    if bias is not None:
        found[f"{name}.bias"] = (bias.float() / scale).to(bias.dtype) if format == "autobitlinear" else bias
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
    one = torch.ones(1, dtype=torch.float32, device=scale.device)
    first = one / scale
    infinity = torch.full_like(first, float("inf"))
    near = [first, torch.nextafter(first, infinity), torch.nextafter(first, -infinity)]
    return min(near, key=lambda divisor: abs(float(one / divisor) - float(scale)))


def quantization_config(format: str, eps_inside: float | None = None) -> dict[str, Any]:
    """What config.json says of the layers; eps_inside: of a norm in each of them."""
    if format in FORMATS:
        return own_config(format)
    found = {
        "quant_method": "bitnet",
        "linear_class": format,
        "quantization_mode": "offline",
        "modules_to_not_convert": None,
    }
    return found if eps_inside is None else found | {"use_rms_norm": True, "rms_norm_eps": eps_inside}


def config_json(config: DecoderConfig, format: str) -> dict[str, Any]:
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
        "quantization_config": quantization_config(format),
    }


def write_model(
    directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], metadata: dict[str, str] | None = None
) -> None:
    """model.safetensors, then config.json: a reader that finds the second finds the first."""
    with beside(directory / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata or {"format": "pt"})
    write_beside_and_rename(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
