"""Small random BitNet embedding models: transformers' Qwen3 and Gemma 3 around ternary layers with norms, and files."""

import json
from pathlib import Path
from typing import Any

import torch
from gguf_files import F16, F32, I2_S, pack_blocks, write_gguf
from gguf_models import BYTES
from safetensors.torch import save_file
from small_checkpoints import hf_pack
from torch import nn
from torch.nn import functional as F
from transformers import Gemma3TextConfig, Gemma3TextModel, Qwen3Config, Qwen3Model

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "attn_implementation": "eager",
    "tie_word_embeddings": True,
    "pad_token_id": None,
    "eos_token_id": None,
}
THETAS = {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}}
THETAS |= {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
GEMMA: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 512,
    "query_pre_attn_scalar": 20,
    "rope_parameters": THETAS,
}
NORMS = {"input_layernorm": "attn_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
IN_FILE = {
    "qwen3": NORMS | {"post_attention_layernorm": "ffn_norm"},
    "gemma3": NORMS
    | {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
LAYERS = {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"} | {"self_attn.o_proj": "attn_output"}
LAYERS |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}


class InnerNormLinear(nn.Module):
    """A ternary layer as its makers describe it: an RMSNorm, int8 codes by the largest magnitude, the product.

    Args:
        out_features: N.
        in_features: K.

    Attributes:
        nearest: how near to a half-integer what became a code lay so far.
    """

    eps, nearest = 1e-6, 1.0

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.codes = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
        self.scale = (torch.rand(()) + 0.5).mul(in_features**-0.5).half().float()
        self.norm = (1 + 0.3 * torch.randn(in_features)).half().float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., N) for x (..., K)."""
        normed = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.norm
        absmax = normed.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        scaled = normed * (torch.full_like(absmax, 127) / absmax)
        self.nearest = min(self.nearest, float((scaled - scaled.floor() - 0.5).abs().min()))
        codes = scaled.round().clamp(-128, 127)
        return F.linear(codes, self.codes.float()) * (absmax / 127 * self.scale)


def random_model(kind: str = "qwen3", seed: int = 0, **changes: Any) -> nn.Module:
    """Return a model of float32, "qwen3" or "gemma3", whose norms are not the initial ones."""
    torch.manual_seed(seed)
    if kind == "qwen3":
        model: nn.Module = Qwen3Model(Qwen3Config(**SIZES | {"rope_theta": 5000.0} | changes))
    else:
        model = Gemma3TextModel(Gemma3TextConfig(**SIZES | GEMMA | changes))
    for name in [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]:
        parent, _, child = name.rpartition(".")
        old = model.get_submodule(name)
        setattr(model.get_submodule(parent), child, InnerNormLinear(old.out_features, old.in_features))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            change = 0.2 * torch.randn_like(parameter) if "norm" in name else torch.randn_like(parameter)
            parameter.copy_((parameter + change if "norm" in name else change).half().float())
    return model.eval()


def kind_of(model: nn.Module) -> str:
    """Return "qwen3" or "gemma3"."""
    return model.config.model_type.removesuffix("_text")


def layers_of(model: nn.Module) -> dict[str, InnerNormLinear]:
    """Return the ternary layers by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, InnerNormLinear)}


def as_folder(model: nn.Module, folder: Path, pooling: str | None = None, body: str = "model.", **changes: Any) -> Path:
    """Write a model as a folder of Hugging Face with 2-bit weights, and a pooling of sentence-transformers."""
    tensors = {f"{body}{name}": tensor.half() for name, tensor in model.state_dict().items()}
    for name, layer in layers_of(model).items():
        tensors[f"{body}{name}.weight"] = hf_pack(layer.codes.numpy())
        tensors[f"{body}{name}.weight_scale"] = layer.scale.reshape(1)
        tensors[f"{body}{name}.norm.weight"] = layer.norm.half()
    folder.mkdir()
    said = json.loads(model.config.to_json_string(use_diff=False))
    said["quantization_config"] = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    (folder / "config.json").write_text(json.dumps(said | changes))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if pooling is not None:
        write_pooling(folder, {f"pooling_mode_{pooling}": True, "word_embedding_dimension": 64})
    return folder


def write_pooling(folder: Path, values: dict[str, Any], *more: str) -> None:
    """Write the files of sentence-transformers; `more` are classes of further modules."""
    modules = ["Transformer", "Pooling", *more, "Normalize"]
    listed = [{"idx": i, "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))


def as_gguf(model: nn.Module, path: Path, **changes: Any) -> Path:
    """Write a model as a GGUF file as its makers do: I2_S, all else in float16; Gemma's norms are whole."""
    kind, state = kind_of(model), model.state_dict()
    more = 1.0 if kind == "gemma3" else 0.0
    tensors = {"token_embd.weight": half(state["embed_tokens.weight"]), "output_norm.weight": floats(state, more)}
    for index in range(model.config.num_hidden_layers):
        for theirs, ours in IN_FILE[kind].items():
            weight = state[f"layers.{index}.{theirs}.weight"] + more
            tensors[f"blk.{index}.{ours}.weight"] = (F32, tuple(weight.shape), weight.numpy().tobytes())
        for theirs, ours in LAYERS.items():
            layer = model.get_submodule(f"layers.{index}.{theirs}")
            codes = layer.codes.numpy()
            tensors[f"blk.{index}.{ours}.weight"] = I2_S, codes.shape, pack_blocks(codes, layer.scale.item(), I2_S)
            tensors[f"blk.{index}.{ours}_norm_in.weight"] = half(layer.norm)
    return write_gguf(path, keys_of(model) | BYTES | changes, tensors)


def floats(state: dict[str, torch.Tensor], more: float) -> tuple[int, Any, bytes]:
    """Return the last norm in float32."""
    weight = state["norm.weight"] + more
    return F32, tuple(weight.shape), weight.numpy().tobytes()


def half(tensor: torch.Tensor) -> tuple[int, Any, bytes]:
    """Return a tensor in float16."""
    return F16, tuple(tensor.shape), tensor.half().numpy().tobytes()


def keys_of(model: nn.Module) -> dict[str, Any]:
    """Return the metadata of a model."""
    config, kind = model.config, kind_of(model)
    parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
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
        "rope.freq_base": parameters["rope_theta"],
        "pooling_type": 1,
    }
    if kind == "gemma3":
        numbers |= {"attention.sliding_window": config.sliding_window, "rope.freq_base_swa": 100.0}
        numbers["attention.sliding_window_pattern"] = 2
    return {"general.architecture": kind, **{f"{kind}.{name}": given for name, given in numbers.items()}}
