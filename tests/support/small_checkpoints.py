"""Small checkpoints on disk, written here byte by byte, and the same models in transformers."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit import reference as oracle
from bitnet_jit.checkpoints.embedded import embedded_model

DATA = Path(__file__).parents[1] / "data"

SMALL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}
ACTIVATIONS = {"bitnet": "relu2", "llama": "silu", "minicpm": "silu", "qwen3": "silu"}
DIVISOR = {"quant_method": "bitnet"}
MULTIPLIER = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
EXACT = {"group_size": 32}  # floats that are ternary, of which config.json says nothing
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Load transformers' results for the embedded model."""
    return dict(np.load(DATA / "tiny_bitnet_reference.npz"))


@pytest.fixture(scope="session")
def kjv() -> torch.Tensor:
    """Load the validation text, (32, 512) bytes as int64."""
    return torch.tensor(list((DATA / "kjv_val_16k.txt").read_bytes())).view(32, 512)


@pytest.fixture(scope="session")
def tiny() -> bitnet_jit.Decoder:
    """Load the embedded model."""
    return bitnet_jit.load(embedded_model())


@pytest.fixture(scope="session")
def embedded_for_transformers(tiny, tmp_path_factory) -> Path:
    """Save the embedded model in the Hugging Face packed format."""
    directory = tmp_path_factory.mktemp("embedded")
    bitnet_jit.save(tiny, directory)
    return directory


@pytest.fixture
def write_checkpoint(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a small random checkpoint; see `write`."""
    return lambda *args, name="model", **kwargs: write(tmp_path / name, *args, **kwargs)


@pytest.fixture
def make_twin() -> Callable[[Path], torch.nn.Module]:
    """Yield a function that loads a directory into transformers, in float32 and eager; see `twin`."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield twin


def write(
    directory: Path,
    quantization: dict[str, Any] = MULTIPLIER,
    model_type: str = "bitnet",
    dtype: torch.dtype = torch.bfloat16,
    num_shards: int = 1,
    **fields: Any,
) -> Path:
    """Write a checkpoint of random weights in the Hugging Face format; `fields` go into config.json."""
    directory.mkdir()
    config = {"model_type": model_type, **SMALL, "hidden_act": ACTIVATIONS[model_type], **fields}
    if model_type == "qwen3":
        config.setdefault("head_dim", 16)  # its class has 128 where the config says nothing
    config["quantization_config"] = quantization
    said = config if "quant_method" in quantization else {**config, "quantization_config": None}
    (directory / "config.json").write_text(json.dumps(said))
    tensors = make_tensors(config, dtype)
    if num_shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for index in range(num_shards):
        file = f"model-{index + 1:05}-of-{num_shards:05}.safetensors"
        names = sorted(tensors)[index::num_shards]
        save_file({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def make_tensors(config: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Make all tensors of a model, packed as its quantization_config says."""
    torch_rng = torch.Generator().manual_seed(7)

    def noise(*shape: int, scale: float, offset: float = 0.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=torch_rng) * scale + offset).to(dtype)

    hidden, middle = config["hidden_size"], config["intermediate_size"]
    heads, head_dim = config["num_attention_heads"], config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = heads * head_dim, config["num_key_value_heads"] * head_dim
    sub_norms, qk_norms = config["model_type"] == "bitnet", config["model_type"] == "qwen3"
    tensors = {"model.embed_tokens.weight": noise(config["vocab_size"], hidden, scale=0.5)}
    tensors["model.norm.weight"] = noise(hidden, scale=0.1, offset=1)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = noise(config["vocab_size"], hidden, scale=0.75)  # logits deviate by about 6
    for index in range(config["num_hidden_layers"]):
        block = f"model.layers.{index}"
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        norms |= {"self_attn.attn_sub_norm": q, "mlp.ffn_sub_norm": middle} if sub_norms else {}
        norms |= {"self_attn.q_norm": head_dim, "self_attn.k_norm": head_dim} if qk_norms else {}
        for name, features in norms.items():
            # those of heads are further apart, so that one at the wrong place is seen
            scale = 0.5 if name.endswith(("q_norm", "k_norm")) else 0.1
            tensors[f"{block}.{name}.weight"] = noise(features, scale=scale, offset=1)
        attention, mlp = config.get("attention_bias", False), config.get("mlp_bias", False)
        linears = {"self_attn.q_proj": (q, hidden, attention), "self_attn.k_proj": (kv, hidden, attention)}
        linears |= {"self_attn.v_proj": (kv, hidden, attention), "self_attn.o_proj": (hidden, q, attention)}
        linears |= {"mlp.gate_proj": (middle, hidden, mlp), "mlp.up_proj": (middle, hidden, mlp)}
        linears |= {"mlp.down_proj": (hidden, middle, mlp)}
        for name, (rows, columns, has_bias) in linears.items():
            w = noise(rows, columns, scale=0.05)
            tensors |= {f"{block}.{name}.{key}": value for key, value in stored(w, config).items()}
            if has_bias:
                tensors[f"{block}.{name}.bias"] = noise(rows, scale=0.1)
    return tensors


def stored(w: torch.Tensor, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return a master weight as the quantization_config stores it."""
    quantization = config["quantization_config"]
    if quantization.get("quantization_mode") == "online":
        return {"weight": w}
    if "group_size" in quantization:
        groups = w.float().unflatten(1, (-1, quantization["group_size"]))
        scales = groups.abs().mean(2, keepdim=True).to(w.dtype)
        return {"weight": ((groups / scales.float()).round().clamp(-1, 1).to(w.dtype) * scales).flatten(1)}
    w_q, w_scale = oracle.quantize_weight(w.float().numpy())
    scale = w_scale if quantization.get("linear_class") == "autobitlinear" else 1 / w_scale
    return {"weight": hf_pack(w_q), "weight_scale": torch.tensor([scale]).to(w.dtype)}


def hf_pack(w_q: np.ndarray) -> torch.Tensor:
    """Pack codes (N, K) in -1..1 into uint8 (ceil(N / 4), K): row i * R + j in bits 2i of byte row j."""
    height = -(-len(w_q) // 4)
    packed = np.zeros((height, w_q.shape[1]), np.uint8)
    for digit in range(4):
        part = (w_q[digit * height : (digit + 1) * height] + 1).astype(np.uint8)
        packed[: len(part)] |= part << 2 * digit
    return torch.from_numpy(packed)


def twin(directory: Path) -> torch.nn.Module:
    """Load the model of a directory into transformers' own layers, to compute in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.bitnet import replace_with_bitnet_linear, unpack_weights
    from transformers.utils.quantization_config import BitNetQuantConfig

    config = AutoConfig.from_pretrained(directory)
    options = dict(getattr(config, "quantization_config", None) or {})
    model_config = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(config).from_dict(model_config)).float()
    if options.pop("quant_method", None):
        replace_with_bitnet_linear(model, ["lm_head"], BitNetQuantConfig(**options))
    tensors = {}
    for file in directory.glob("*.safetensors"):
        tensors |= load_file(file)
    dense = options.get("linear_class") == "autobitlinear"
    for name, tensor in tensors.items():
        if tensor.dtype == torch.uint8:
            tensors[name] = unpack_weights(tensor, torch.float32) if dense else tensor
        else:
            tensors[name] = tensor.float()
    keys = model.load_state_dict(tensors, strict=False, assign=True)
    assert not keys.unexpected_keys
    assert set(keys.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    for module in model.modules():
        if hasattr(module, "dtype") and type(module).__name__ == "BitLinear":
            module.dtype = torch.float32
    return model.eval()
