"""Our names of a decoder's tensors -> Hugging Face's names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bitnet_jit.checkpoints import decoder_names
from bitnet_jit.models.config import DecoderConfig

BODY = {decoder_names.EMBEDDING: "embed_tokens", decoder_names.FINAL_NORM: "norm"}
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
INSIDE = "norm"  # the name of a norm inside a layer of a BitNet embedding model
INNER_NORMS = {f"{ours}.norm": f"{theirs}.{INSIDE}" for ours, theirs in IN_BLOCK.items() if theirs.endswith("_proj")}
GEMMA3 = IN_BLOCK | {
    "attention.branch_norm": "post_attention_layernorm",
    "feed_forward.norm": "pre_feedforward_layernorm",
    "feed_forward.branch_norm": "post_feedforward_layernorm",
}
DELTA_NET = {
    "delta_net.norm": "input_layernorm",
    "delta_net.qkv": "linear_attn.in_proj_qkv",
    "delta_net.z": "linear_attn.in_proj_z",
    "delta_net.b": "linear_attn.in_proj_b",
    "delta_net.a": "linear_attn.in_proj_a",
    "delta_net.conv": "linear_attn.conv1d",
    "delta_net.decay": "linear_attn.A_log",
    "delta_net.dt_bias": "linear_attn.dt_bias",
    "delta_net.head_norm": "linear_attn.norm",
    "delta_net.output": "linear_attn.out_proj",
}
BARE = ("linear_attn.A_log", "linear_attn.dt_bias")  # names that are those of tensors, and no modules
ONE_BIT_LLM = IN_BLOCK | {"attention.sub_norm": "self_attn.inner_attn_ln", "feed_forward.sub_norm": "mlp.ffn_layernorm"}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROTARY = ".rotary_emb.inv_freq"  # the end of the names of rotary frequencies, which old versions saved
MLX_TEXT = "language_model"  # begins the names of a text model in mlx-lm
BODIES = {  # where the parts of a text model stand, with its head
    "model": "lm_head",
    "model.language_model": "lm_head",
    f"{MLX_TEXT}.model": f"{MLX_TEXT}.lm_head",
    "": "lm_head",  # of a model that was saved without one
}
ASIDE = ("mtp.", "model.visual.", "visual.", "vision_tower.", "model.vision_tower.")  # what text needs no part of


@dataclass(frozen=True)
class HfNames:
    """The names of a model's tensors in its files.

    Attributes:
        in_block: those of our parts of a block.
        body: where the blocks stand.
        head: the head's.
    """

    in_block: Mapping[str, str] = field(default_factory=lambda: IN_BLOCK | DELTA_NET)
    body: str = "model"
    head: str = "lm_head"

    def layer(self, name: str) -> str:
        """Return the name of a layer."""
        if name == decoder_names.HEAD:
            return self.head
        if name in BODY:
            return in_body(self.body, BODY[name])
        _, index, part = name.split(".", 2)
        return in_body(self.body, f"layers.{index}.{self.in_block[part]}")

    def tensor(self, name: str) -> str:
        """Return the name of a tensor of floats."""
        layer = self.layer(name)
        return layer if layer.endswith(BARE) else f"{layer}.weight"

    def is_harmless(self, name: str) -> bool:
        """Return whether files may hold a tensor that no text needs.

        A head where the embedding is it, rotary frequencies, what sees pictures, what guesses tokens.
        """
        return name == f"{self.head}.weight" or name.endswith(ROTARY) or name.startswith(ASIDE)


def names_for(config: DecoderConfig, tensors: Collection[str] = ()) -> HfNames:
    """Return the names of a model whose files hold tensors of some names.

    Those of transformers, or of 1bitLLM, whose models alone have silu and sub-norms.
    """
    bodies = [body for body in BODIES if in_body(body, f"{BODY[decoder_names.EMBEDDING]}.weight") in tensors]
    body = bodies[0] if bodies else "model"
    usual = GEMMA3 if config.branch_norms else IN_BLOCK | DELTA_NET
    in_block = ONE_BIT_LLM if config.sub_norms and config.activation == "silu" else usual
    return HfNames(in_block | INNER_NORMS if config.inner_norms else in_block, body, BODIES[body])


def mlx_names(config: DecoderConfig) -> HfNames:
    """Return the names in a folder of mlx-lm: its Qwen3.5 is the text model of one that sees pictures."""
    body = "model" if config.delta_net is None else f"{MLX_TEXT}.model"
    return HfNames(body=body, head=BODIES[body])


def in_body(body: str, name: str) -> str:
    """Return the name of a part of the body of a model, which has a name of its own or none.

    >>> in_body("model", "norm"), in_body("", "norm")
    ('model.norm', 'norm')
    """
    return f"{body}.{name}" if body else name


def has_inner_norms(tensors: Collection[str]) -> bool:
    """Return whether files that hold tensors of some names have a norm inside a layer."""
    ends = tuple(f".{name}.weight" for name in INNER_NORMS.values())
    return any(name.endswith(ends) for name in tensors)


def hf_layer(name: str) -> str:
    """Return the name of a layer as transformers has it.

    >>> hf_layer("blocks.3.attention.q")
    'model.layers.3.self_attn.q_proj'
    """
    return HfNames().layer(name)
