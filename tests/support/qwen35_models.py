"""Small random Qwen3.5 models of transformers whose layers are ternary times scales of groups, and their GGUF files."""

from pathlib import Path
from typing import Any

import torch
from gguf_files import F32, pack_blocks, write_gguf
from gguf_models import BYTES
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

GROUP = 32
DENSE = ("in_proj_b", "in_proj_a", "conv1d", "lm_head", "embed_tokens")
SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25},
    "attn_implementation": "eager",
    "pad_token_id": None,
}


def ternary(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Return the nearest codes times the mean magnitude of each group of inputs, as float16 holds it."""
    groups = weight.float().unflatten(1, (-1, group))
    scale = groups.abs().mean(-1, keepdim=True).half().float()
    return (groups / scale).round().clamp(-1, 1).mul(scale).flatten(1)


def random_model(seed: int = 0, group: int = GROUP, **changes) -> Qwen3_5ForCausalLM:
    """Return a model of float32 with exactly ternary layers, and norms and gates that are not the initial ones."""
    torch.manual_seed(seed)
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and not any(word in name for word in DENSE):
                parameter.copy_(ternary(torch.randn_like(parameter) / parameter.shape[1] ** 0.5, group))
            elif "A_log" in name:
                parameter.copy_(torch.empty_like(parameter).uniform_(0.01, 8).log())
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "conv1d" in name or "in_proj" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter))
    return model


def as_gguf(
    model: Qwen3_5ForCausalLM, path: Path, type_id: int, block: int, grouped: bool = False, **changes: Any
) -> Path:
    """Write a model as llama.cpp's converter lays it out: heads of values tiled, norms and decay as they are used.

    Where it is grouped, the inputs of ssm_out are not tiled.
    """
    config, state = model.config, {name: tensor.detach() for name, tensor in model.state_dict().items()}
    tensors = {"token_embd.weight": floats(state["model.embed_tokens.weight"])}
    tensors["output_norm.weight"] = floats(state["model.norm.weight"] + 1)
    if not config.tie_word_embeddings:
        tensors["output.weight"] = floats(state["lm_head.weight"])
    for index, kind in enumerate(config.layer_types):
        layer = {name.split(".", 3)[3]: state[name] for name in state if f"layers.{index}." in name}
        parts = linear_tensors(layer, config) if kind == "linear_attention" else attention_tensors(layer)
        parts |= {f"ffn_{name}.weight": layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")}
        if grouped and kind == "linear_attention":
            parts["ssm_out.weight"] = layer["linear_attn.out_proj.weight"]
        parts["attn_norm.weight"] = layer["input_layernorm.weight"] + 1
        parts["post_attention_norm.weight"] = layer["post_attention_layernorm.weight"] + 1
        for name, tensor in parts.items():
            is_ternary = tensor.dim() == 2 and not any(word in name for word in ("beta", "alpha", "conv"))
            tensors[f"blk.{index}.{name}"] = packed(tensor, type_id, block) if is_ternary else floats(tensor)
    return write_gguf(path, keys_of(config) | BYTES | changes, tensors)


def folded_names(model: Qwen3_5ForCausalLM) -> list[str]:
    """Return the names in a GGUF file of all ternary layers."""
    of_kind = {
        "linear_attention": ("attn_qkv", "attn_gate", "ssm_out"),
        "full_attention": ("attn_q", "attn_k", "attn_v", "attn_output"),
    }
    middle = ("ffn_gate", "ffn_up", "ffn_down")
    kinds = enumerate(model.config.layer_types)
    return [f"blk.{index}.{name}.weight" for index, kind in kinds for name in (*of_kind[kind], *middle)]


def keys_of(config: Qwen3_5TextConfig) -> dict[str, Any]:
    """Return the metadata of a model."""
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim // 4,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "full_attention_interval": config.layer_types.index("full_attention") + 1,
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
    }
    return {"general.architecture": "qwen35", **{f"qwen35.{name}": given for name, given in numbers.items()}}


def attention_tensors(layer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of attention."""
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output": "o_proj"}
    tensors = {f"attn_{ours}.weight": layer[f"self_attn.{theirs}.weight"] for ours, theirs in names.items()}
    return tensors | {f"attn_{name}_norm.weight": layer[f"self_attn.{name}_norm.weight"] + 1 for name in "qk"}


def linear_tensors(layer: dict[str, torch.Tensor], config: Qwen3_5TextConfig) -> dict[str, torch.Tensor]:
    """Return the tensors of a gated DeltaNet, its heads of values tiled."""
    keys, heads, width = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim
    order = [group * (heads // keys) + turn for turn in range(heads // keys) for group in range(keys)]
    rows = torch.tensor([head * width + row for head in order for row in range(width)])
    mixed = torch.cat(
        (torch.arange(2 * keys * config.linear_key_head_dim), rows + 2 * keys * config.linear_key_head_dim)
    )
    at = {name.removeprefix("linear_attn."): tensor for name, tensor in layer.items()}
    return {
        "attn_qkv.weight": at["in_proj_qkv.weight"][mixed],
        "attn_gate.weight": at["in_proj_z.weight"][rows],
        "ssm_beta.weight": at["in_proj_b.weight"][order],
        "ssm_alpha.weight": at["in_proj_a.weight"][order],
        "ssm_conv1d.weight": at["conv1d.weight"][mixed, 0],
        "ssm_a": -at["A_log"].exp()[order],
        "ssm_dt.bias": at["dt_bias"][order],
        "ssm_norm.weight": at["norm.weight"],
        "ssm_out.weight": at["out_proj.weight"][:, rows],
    }


def floats(tensor: torch.Tensor) -> tuple[int, Any, bytes]:
    """Return a tensor of float32."""
    return F32, tuple(tensor.shape), tensor.contiguous().numpy().tobytes()


def packed(weight: torch.Tensor, type_id: int, block: int) -> tuple[int, Any, bytes]:
    """Return a ternary weight in blocks, whose scales are its largest magnitudes."""
    scale = weight.unflatten(1, (-1, block)).abs().amax(-1)
    codes = weight.unflatten(1, (-1, block)).sign().flatten(1).to(torch.int8)
    return type_id, tuple(weight.shape), pack_blocks(codes.numpy(), scale.numpy(), type_id)
