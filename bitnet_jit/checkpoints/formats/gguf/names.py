"""Our names of a decoder's tensors -> those of GGUF."""

from collections.abc import Mapping

from bitnet_jit.checkpoints import decoder_names

OUTER = {
    decoder_names.EMBEDDING: "token_embd",
    decoder_names.FINAL_NORM: "output_norm",
    decoder_names.HEAD: "output",
}
IN_BLOCK = {
    "attention.norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.sub_norm": "attn_sub_norm",
    "attention.output": "attn_output",
    "feed_forward.norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.sub_norm": "ffn_sub_norm",
    "feed_forward.down": "ffn_down",
}
INNER_NORMS = {  # of BitNet embedding models
    f"{ours}.norm": f"{theirs}_norm_in" for ours, theirs in IN_BLOCK.items() if not ours.endswith("norm")
}
IN_BLOCK |= INNER_NORMS
GEMMA3 = IN_BLOCK | {
    "attention.branch_norm": "post_attention_norm",
    "feed_forward.branch_norm": "post_ffw_norm",
}
QWEN35 = IN_BLOCK | {
    "feed_forward.norm": "post_attention_norm",
    "delta_net.norm": "attn_norm",
    "delta_net.qkv": "attn_qkv",
    "delta_net.z": "attn_gate",
    "delta_net.b": "ssm_beta",
    "delta_net.a": "ssm_alpha",
    "delta_net.conv": "ssm_conv1d",
    "delta_net.decay": "ssm_a",
    "delta_net.dt_bias": "ssm_dt",
    "delta_net.head_norm": "ssm_norm",
    "delta_net.output": "ssm_out",
}
ENDS = {"ssm_a": "", "ssm_dt": ".bias"}  # of names that do not end in ".weight"
EMBEDDING, HEAD = f"{OUTER[decoder_names.EMBEDDING]}.weight", f"{OUTER[decoder_names.HEAD]}.weight"


def gguf_layer(name: str, in_block: Mapping[str, str] = IN_BLOCK) -> str:
    """Return the name of a layer.

    >>> gguf_layer("blocks.3.attention.q")
    'blk.3.attn_q'
    """
    if name in OUTER:
        return OUTER[name]
    _, index, part = name.split(".", 2)
    return f"blk.{index}.{in_block[part]}"


def gguf_tensor(name: str, in_block: Mapping[str, str] = IN_BLOCK) -> str:
    """Return the name of a weight.

    >>> gguf_tensor("norm")
    'output_norm.weight'
    >>> gguf_tensor("blocks.0.delta_net.decay", QWEN35)
    'blk.0.ssm_a'
    """
    layer = gguf_layer(name, in_block)
    return layer + ENDS.get(layer.rsplit(".", 1)[-1], ".weight")
