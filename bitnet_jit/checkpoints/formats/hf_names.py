"""Our names of a decoder's tensors -> Hugging Face's names."""

from bitnet_jit.checkpoints import decoder_names
from bitnet_jit.models.config import DecoderConfig

OUTER = {
    decoder_names.EMBEDDING: "model.embed_tokens",
    decoder_names.FINAL_NORM: "model.norm",
    decoder_names.HEAD: "lm_head",
}
IN_BLOCK = {
    "attention.norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.sub_norm": "self_attn.attn_sub_norm",
    "attention.output": "self_attn.o_proj",
    "feed_forward.norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.sub_norm": "mlp.ffn_sub_norm",
    "feed_forward.down": "mlp.down_proj",
}
ONE_BIT_LLM = IN_BLOCK | {"attention.sub_norm": "self_attn.inner_attn_ln", "feed_forward.sub_norm": "mlp.ffn_layernorm"}
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
ROTARY = ".rotary_emb.inv_freq"  # the end of the names of rotary frequencies, which old versions saved


def names_for(config: DecoderConfig) -> dict[str, str]:
    """Return the names in a block: those of transformers, or of 1bitLLM, whose models alone have silu and sub-norms."""
    return ONE_BIT_LLM if config.sub_norms and config.activation == "silu" else IN_BLOCK


def hf_layer(name: str, names: dict[str, str] = IN_BLOCK) -> str:
    """Return the name of a layer.

    >>> hf_layer("blocks.3.attention.q")
    'model.layers.3.self_attn.q_proj'
    """
    if name in OUTER:
        return OUTER[name]
    _, index, part = name.split(".", 2)
    return f"model.layers.{index}.{names[part]}"


def hf_tensor(name: str, names: dict[str, str] = IN_BLOCK) -> str:
    """Return the name of a dense tensor.

    >>> hf_tensor("norm")
    'model.norm.weight'
    """
    return f"{hf_layer(name, names)}.weight"


def is_harmless(name: str) -> bool:
    """Return whether files may hold a tensor that no model needs: a tied head, or rotary frequencies."""
    return name == HEAD or name.endswith(ROTARY)
