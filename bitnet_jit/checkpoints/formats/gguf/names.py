"""Our names of a decoder's tensors -> those of GGUF."""

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
EMBEDDING, HEAD = f"{OUTER[decoder_names.EMBEDDING]}.weight", f"{OUTER[decoder_names.HEAD]}.weight"


def gguf_layer(name: str) -> str:
    """Return the name of a layer.

    >>> gguf_layer("blocks.3.attention.q")
    'blk.3.attn_q'
    """
    if name in OUTER:
        return OUTER[name]
    _, index, part = name.split(".", 2)
    return f"blk.{index}.{IN_BLOCK[part]}"


def gguf_tensor(name: str) -> str:
    """Return the name of a weight.

    >>> gguf_tensor("norm")
    'output_norm.weight'
    """
    return f"{gguf_layer(name)}.weight"
