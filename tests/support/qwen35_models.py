"""Small random Qwen3.5 models of transformers whose layers are ternary times scales of groups."""

import torch
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
