"""Our `DecoderConfig` -> config.json of the Hugging Face format."""

from typing import Any

import torch

from bitnet_jit.checkpoints.formats.hf_config import KINDS, ModelKind
from bitnet_jit.checkpoints.formats.hf_delta_net import delta_net_json
from bitnet_jit.checkpoints.formats.hf_gemma3 import gemma3_json
from bitnet_jit.checkpoints.formats.hf_rope import scaling_json, share_of
from bitnet_jit.checkpoints.formats.writer import Writer
from bitnet_jit.dtypes import dtype_name
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig


def config_json(
    config: DecoderConfig, writer: Writer, dtype: torch.dtype = torch.float32, dense: list[str] | None = None
) -> dict[str, Any]:
    """Return the config.json of a decoder.

    Args:
        config: the architecture, as files have it.
        writer: of the ternary layers.
        dtype: of the embedding; transformers computes in it.
        dense: as for `Writer.quantization_config`.
    """
    model_type, kind = kind_of(config)
    return {
        "architectures": [kind.architecture],
        "model_type": model_type,
        "dtype": dtype_name(dtype),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        **rope_json(config),
        **parts_json(config),
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": list(config.eos_ids) or None,
        "quantization_config": writer.quantization_config(None, dense),
    }


def kind_of(config: DecoderConfig) -> tuple[str, ModelKind]:
    """Return the model_type of an architecture, and what it stands for."""
    parts = (config.activation, config.sub_norms, config.qk_norms)
    others = (config.branch_norms, config.delta_net is not None)
    for name, kind in KINDS.items():
        if (kind.activation, kind.sub_norms, kind.qk_norms) == parts and (kind.branch_norms, kind.mixes) == others:
            return name, kind
    raise InvalidInput(
        f"model: no model_type of transformers has activation={parts[0]!r}, sub_norms={parts[1]}, qk_norms={parts[2]}, "
        f"branch_norms={others[0]}"
    )


def parts_json(config: DecoderConfig) -> dict[str, Any]:
    """Return what a config.json says of the activation, and of the parts that some kinds of models alone have."""
    if config.branch_norms:
        return gemma3_json(config)
    said: dict[str, Any] = {"hidden_act": config.activation}
    return said if config.delta_net is None else said | delta_net_json(config.delta_net)


def rope_json(config: DecoderConfig) -> dict[str, Any]:
    """Return the rotary positions of a config.json, as transformers has them since 4.43; version 5 reads them too."""
    scaling = {} if config.rope_scaling is None else scaling_json(config.rope_scaling)
    if config.rotated_dims:
        share = share_of(config.rotated_dims, config.head_dim)
        said = {"rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": share}
        return {"rope_parameters": said | scaling}
    return {"rope_theta": config.rope_theta} | ({"rope_scaling": scaling} if scaling else {})
