"""config.json of the Hugging Face format -> our `DecoderConfig`, and how its ternary weights were stored."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bitnet_jit.checkpoints.file_names import GENERATION
from bitnet_jit.checkpoints.formats import prism_mlx
from bitnet_jit.checkpoints.formats.fields import Fields, read_json, read_json_if_there
from bitnet_jit.checkpoints.formats.hf_bitnet import Online
from bitnet_jit.checkpoints.formats.hf_delta_net import with_delta_net
from bitnet_jit.checkpoints.formats.hf_gemma3 import global_fields, read_gemma3
from bitnet_jit.checkpoints.formats.hf_quantization import read_storage
from bitnet_jit.checkpoints.formats.hf_rope import read_rope
from bitnet_jit.checkpoints.formats.hf_storage import Storage
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import DecoderConfig, Multipliers
from bitnet_jit.models.rope import check_rope
from bitnet_jit.problem import MAX_IN_FEATURES


@dataclass(frozen=True)
class ModelKind:
    """The consequences of a model_type: its class in transformers, and that class's parts and defaults.

    Attributes:
        architecture: the name of the class.
        activation, sub_norms, qk_norms, branch_norms: as in `DecoderConfig`; Gemma 3 alone has the last ones.
        mlp_bias: whether gate, up and down can have biases.
        windows: whether layers can see the last tokens alone, which we do not run.
        norm_eps, rope_theta: where config.json has none.
        head_dim: likewise; 0 is hidden_size / num_attention_heads.
        multiplies: whether config.json has MiniCPM's constants.
        mixes: whether blocks have Qwen3.5's gated DeltaNet, and its attention.
    """

    architecture: str
    activation: Literal["relu2", "silu", "gelu"] = "silu"
    sub_norms: bool = False
    qk_norms: bool = False
    branch_norms: bool = False
    mlp_bias: bool = False
    windows: bool = False
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    head_dim: int = 0
    multiplies: bool = False
    mixes: bool = False


ONE_BIT_LLM = "BitnetForCausalLM"  # 1bitLLM's class, of model_type "llama"
KINDS = {
    "bitnet": ModelKind("BitNetForCausalLM", activation="relu2", sub_norms=True, norm_eps=1e-5, rope_theta=500_000.0),
    "llama": ModelKind("LlamaForCausalLM", mlp_bias=True),
    "minicpm": ModelKind("MiniCPMForCausalLM", multiplies=True),
    "qwen3": ModelKind("Qwen3ForCausalLM", qk_norms=True, windows=True, head_dim=128),
    "gemma3_text": ModelKind(
        "Gemma3ForCausalLM", "gelu", qk_norms=True, branch_norms=True, rope_theta=1e6, head_dim=256
    ),
    "qwen3_5_text": ModelKind("Qwen3_5ForCausalLM", qk_norms=True, head_dim=256, mixes=True),
}
# the model_type of the text_config of models that read more than text
WITH_TEXT = {"qwen3_5": "qwen3_5_text", prism_mlx.MODEL_TYPE: "qwen3_5_text"}


def read_config(path: Path) -> tuple[DecoderConfig, Storage]:
    """Return the architecture and the storage that a config.json describes.

    Raises:
        CheckpointError: a field is missing, wrong, or describes a model that we cannot run; it names the field.
    """
    whole = Fields(read_json(path), str(path))
    fields = text_fields(whole)
    kind, storage = read_kind(fields, whole)
    num_heads = fields.integer("num_attention_heads", high=2**16)
    hidden_size = fields.integer("hidden_size", high=MAX_IN_FEATURES)
    vocab_size = fields.integer("vocab_size")
    context_length = fields.integer("max_position_embeddings", 2048)
    rotary = global_fields(fields) if kind.branch_norms else fields
    rope_theta, rope_scaling = read_rope(rotary, kind.rope_theta, context_length, not kind.mixes)
    config = DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", high=MAX_IN_FEATURES),
        num_layers=fields.integer("num_hidden_layers", high=2**16),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads, high=num_heads),
        head_dim=fields.integer("head_dim", kind.head_dim or max(1, hidden_size // num_heads), high=MAX_IN_FEATURES),
        context_length=context_length,
        norm_eps=fields.positive("rms_norm_eps", kind.norm_eps),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        activation=kind.activation,  # checked by `with_parts`
        sub_norms=kind.sub_norms,
        tied_embeddings=fields.flag("tie_word_embeddings", whole.flag("tie_word_embeddings", kind.branch_norms)),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=kind.mlp_bias and fields.flag("mlp_bias", False),
        eos_ids=read_eos_ids(fields, path, vocab_size),
        qk_norms=kind.qk_norms,
        multipliers=read_multipliers(fields) if kind.multiplies else Multipliers(),
    )
    config = with_parts(config, kind, fields)
    check_config(config, fields, kind)
    return config, storage


def with_parts(config: DecoderConfig, kind: ModelKind, fields: Fields) -> DecoderConfig:
    """Return an architecture with the parts that its kind alone has; its activation is checked."""
    if kind.branch_norms:
        return read_gemma3(config, fields)
    fields.word("hidden_act", (kind.activation,), kind.activation)
    return with_delta_net(config, fields) if kind.mixes else config


def text_fields(whole: Fields) -> Fields:
    """Return the fields of the text model in a config.json: those of its text_config where it reads pictures, too."""
    model_type = whole.word("model_type", (*KINDS, *WITH_TEXT))
    if (inner := whole.inner("text_config")) is None or model_type not in WITH_TEXT:
        return Fields({**whole.values, "model_type": WITH_TEXT.get(model_type, model_type)}, whole.where)
    return Fields({"model_type": WITH_TEXT[model_type], **inner.values}, inner.where)


def read_kind(fields: Fields, whole: Fields) -> tuple[ModelKind, Storage]:
    """Return the kind of a text model, and how the layers of the whole model are stored."""
    kind = KINDS[fields.word("model_type", tuple(KINDS))]
    if ONE_BIT_LLM in (fields.words("architectures") or ()):
        return replace(kind, architecture=ONE_BIT_LLM, sub_norms=True), Online()
    is_rotated = whole.values.get("model_type") == prism_mlx.MODEL_TYPE
    return kind, prism_mlx.read_prism(whole) if is_rotated else read_storage(whole)


def read_multipliers(fields: Fields) -> Multipliers:
    """Return MiniCPM's constants, without which its text would be garbage: none has a default here."""
    depth = fields.positive("scale_depth") / math.sqrt(fields.integer("num_hidden_layers"))
    width = fields.positive("dim_model_base") / fields.integer("hidden_size")
    return Multipliers(fields.positive("scale_emb"), depth, width)


def check_config(config: DecoderConfig, fields: Fields, kind: ModelKind) -> None:
    """Raise CheckpointError where the parts of a model do not go together, or it needs what we cannot run."""
    check_heads(config, fields)
    check_positions(config, fields, kind)


def check_heads(config: DecoderConfig, fields: Fields) -> None:
    """Raise CheckpointError where the heads do not go together."""
    if config.num_heads % config.num_kv_heads:
        raise fields.refuse("num_key_value_heads", f"a divisor of num_attention_heads {config.num_heads}")
    if config.head_dim % 2:
        raise CheckpointError(f"{fields.where}: head_dim: expected an even number, found {config.head_dim}")
    if config.q_features > MAX_IN_FEATURES:
        raise fields.refuse("num_attention_heads", f"at most {MAX_IN_FEATURES} features of all heads together")
    if config.sub_norms and config.q_features != config.hidden_size:
        raise CheckpointError(
            f"{fields.where}: hidden_size: expected num_attention_heads * head_dim = {config.q_features}, "
            f"found {config.hidden_size}"
        )


def check_positions(config: DecoderConfig, fields: Fields, kind: ModelKind) -> None:
    """Raise CheckpointError where a layer sees the last tokens alone, or rotary angles are no finite numbers."""
    if kind.windows and fields.flag("use_sliding_window", False):
        raise fields.refuse("use_sliding_window", "false: every token sees all tokens before it")
    if kind.windows and set(fields.words("layer_types") or ()) - {"full_attention"}:
        raise fields.refuse("layer_types", "'full_attention' alone: every token sees all tokens before it")
    try:
        check_rope(config)
    except InvalidInput as error:
        raise CheckpointError(f"{fields.where}: {error}") from None


def read_eos_ids(fields: Fields, path: Path, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens that end a text, of config.json and of generation_config.json beside it where there is one."""
    ids = fields.integers("eos_token_id", vocab_size - 1)
    beside = path.with_name(GENERATION)
    if (values := read_json_if_there(beside)) is not None:
        ids += Fields(values, str(beside)).integers("eos_token_id", vocab_size - 1)
    return tuple(dict.fromkeys(ids))
