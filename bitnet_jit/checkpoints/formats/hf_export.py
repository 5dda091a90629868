"""Ternary layers as tensors of a format on disk, and a model's config.json.

| format          | weight                      | weight_scale           | bias                                    |
|-----------------|-----------------------------|------------------------|-----------------------------------------|
| "autobitlinear" | Hugging Face's, 2 bits      | a multiplier, mean|w|  | divided by it: the reader multiplies it |
| "bitlinear"     | Hugging Face's, 2 bits      | a divisor, 1 / mean|w| | as it is                                |
| "i2", "t5"      | ours, 2 bits or 1.6         | a multiplier, mean|w|  | as it is                                |

A reader's 1 / weight_scale need not be the scale that we had, nor bias * weight_scale the bias; where a neighbour
brings that back, it is taken. A divided bias is float32, whatever the bias was.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from bitnet_jit.checkpoints.formats.own_format import own_config
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.convert import pack_named
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import INSIDE, norm_inside
from bitnet_jit.packing import FORMATS
from bitnet_jit.system.files import beside, write_beside_and_rename

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
            # not state_dict(), which undoes the layout of the weight
            inside |= {f"{name}.{key}" for key, _ in chain(module.named_parameters(), module.named_buffers())}
    if not inside:
        raise InvalidInput(f"model: {type(model).__name__} has no ternary layer; make them with bitnet_jit.convert")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in inside}
    for name, tensor in rest.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidInput(f"model: {name} is no tensor but a {type(tensor).__name__}, which no format holds")
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
    stored_scale = divisor_of(scale) if format == "bitlinear" else scale
    if not 0 < float(stored_scale) < float("inf"):
        raise InvalidInput(
            f"{name}: its scale {float(scale):g} cannot be stored in format {format!r}, as {float(stored_scale):g}"
        )
    found = {f"{name}.weight_scale": stored_scale}
    if format in FORMATS:
        found[f"{name}.weight"] = FORMATS[format].pack(codes)
    elif codes.shape[0] % 4:
        raise InvalidInput(
            f"{name}: format {format!r} holds a multiple of 4 outputs, got {codes.shape[0]}; i2 and t5 any"
        )
    else:
        found[f"{name}.weight"] = pack_rows(codes)
    if bias is not None:
        found[f"{name}.bias"] = divided(name, bias, scale) if format == "autobitlinear" else bias
    return found


def divided(name: str, bias: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A float32 (N,) whose product with the scale, float32 (1,), is the bias (N,), or as near to it as there is one.

    Raises:
        InvalidInput: it is too large for the bias's dtype, in which transformers will hold it.

    >>> divided("q_proj", torch.tensor([1.0, 3.0]), torch.tensor([0.5])).tolist()
    [2.0, 6.0]
    """
    wanted = bias.float()
    first = wanted / scale
    if not bool(first.to(bias.dtype).isfinite().all()):
        raise InvalidInput(
            f"{name}.bias: format 'autobitlinear' divides it by the scale {float(scale):g}, which is not finite in "
            f"{bias.dtype}; use bitlinear, i2 or t5"
        )
    infinity = torch.tensor(float("inf"))
    near = torch.stack((first, torch.nextafter(first, infinity), torch.nextafter(first, -infinity)))
    nearest = (near * scale - wanted).abs().argmin(0, keepdim=True)
    return near.gather(0, nearest)[0]


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


def quantization_config(format: str, eps_inside: float | None = None, dense: list[str] | None = None) -> dict[str, Any]:
    """What config.json says of the layers.

    Args:
        format: one of `FORMATS_ON_DISK`.
        eps_inside: of a norm in each ternary layer, None where there are none.
        dense: names of all linear layers that are not ternary; None leaves it to the reader to spare the output head.
    """
    if format in FORMATS:
        return own_config(format)
    found = {
        "quant_method": "bitnet",
        "linear_class": format,
        "quantization_mode": "offline",
        "modules_to_not_convert": dense,
    }
    return found if eps_inside is None else found | {"use_rms_norm": True, "rms_norm_eps": eps_inside}


def config_json(
    config: DecoderConfig, format: str, dtype: torch.dtype = torch.float32, dense: list[str] | None = None
) -> dict[str, Any]:
    """The config.json of a decoder.

    Args:
        config: the architecture.
        format: one of `FORMATS_ON_DISK`.
        dtype: of the embedding; transformers computes in it.
        dense: as for `quantization_config`.
    """
    model_type, architecture = MODEL_TYPES[config.activation]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": dtype_name(dtype),
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
        **rope_json(config),
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": list(config.eos_ids) or None,
        "quantization_config": quantization_config(format, dense=dense),
    }


def rope_json(config: DecoderConfig) -> dict[str, Any]:
    """The rotary positions of a config.json, as transformers has them since 4.43; version 5 reads them too."""
    if (scaling := config.rope_scaling) is None:
        return {"rope_theta": config.rope_theta}
    said = {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
    return {"rope_theta": config.rope_theta, "rope_scaling": said}


def dtype_name(dtype: torch.dtype) -> str:
    """What config.json calls a dtype.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def write_model(
    directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], metadata: dict[str, str] | None = None
) -> None:
    """model.safetensors, then config.json: a reader that finds the second finds the first."""
    with beside(directory / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata or {"format": "pt"})
    write_beside_and_rename(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
