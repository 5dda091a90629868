"""Our `DecoderConfig` -> the metadata of a GGUF file; see `config.py` for the way back."""

from typing import Any

import torch

from bitnet_jit.checkpoints.formats.gguf.config import KINDS
from bitnet_jit.checkpoints.formats.gguf.delta_net import delta_net_keys
from bitnet_jit.checkpoints.formats.gguf.gemma3 import gemma3_keys
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig, Multipliers
from bitnet_jit.models.rope import frequencies
from bitnet_jit.models.rope_scaling import DividedScaling, LinearScaling, Llama3Scaling, YarnScaling, yarn_magnitude

QUANTIZATION_VERSION = 2  # of ggml, since 2023


def architecture_of(config: DecoderConfig) -> str:
    """Return the general.architecture of a model; InvalidInput where GGUF has no name for its parts.

    >>> import bitnet_jit
    >>> architecture_of(bitnet_jit.load().config)
    'bitnet-b1.58'
    """
    constants = has_constants(config)
    parts = (config.activation, config.sub_norms, config.qk_norms, config.branch_norms, constants)
    for name, kind in KINDS.items():
        of_kind = (kind.activation, kind.sub_norms, kind.qk_norms, kind.branch_norms, kind.multiplies)
        if of_kind == parts and kind.mixes == (config.delta_net is not None):
            return name
    raise InvalidInput(
        f"model: GGUF has no architecture with activation={config.activation!r}, sub_norms={config.sub_norms}, "
        f"qk_norms={config.qk_norms}"
    )


def has_constants(config: DecoderConfig) -> bool:
    """Return whether a model has MiniCPM's constants; those of Gemma follow from its sizes."""
    return config.multipliers != Multipliers() and not config.branch_norms


def config_keys(config: DecoderConfig, name: str) -> dict[str, Any]:
    """Return the keys of an architecture, for a model of that name."""
    architecture = architecture_of(config)
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": config.rotated_dims or config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        **scaling_keys(config),
        **(multiplier_keys(config.multipliers) if has_constants(config) else {}),
        **delta_net_keys(config),
        **gemma3_keys(config),
    }
    keys = {"general.architecture": architecture, "general.name": name}
    keys |= {f"{architecture}.{key}": given for key, given in sizes.items()}
    return keys | {"general.quantization_version": QUANTIZATION_VERSION}


def multiplier_keys(multipliers: Multipliers) -> dict[str, Any]:
    """Return the keys of MiniCPM's constants."""
    scales = multipliers.embedding, multipliers.residual, 1 / multipliers.logits
    return dict(zip(("embedding_scale", "residual_scale", "logit_scale"), map(float, scales), strict=True))


def scaling_keys(config: DecoderConfig) -> dict[str, Any]:
    """Return the keys of a rotary scaling; InvalidInput where there are none for it."""
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    if isinstance(scaling, YarnScaling):
        if not scaling.truncate:
            raise InvalidInput("model: GGUF has no key for YaRN with truncate=False")
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling.factor),
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.attn_factor": scaling.magnitude / yarn_magnitude(scaling.factor),
            "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
        }
    if isinstance(scaling, DividedScaling) and has_constants(config):
        long = {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": float(scaling.magnitude)}
        return long | {"rope.scaling.original_context_length": config.context_length}
    if isinstance(scaling, DividedScaling) and scaling.magnitude != 1.0:
        raise InvalidInput(f"model: GGUF has no key for LongRoPE's magnitude {scaling.magnitude:g} of these models")
    return {}


def rope_divisors(config: DecoderConfig) -> torch.Tensor | None:
    """Return the divisors of rotary frequencies, float32 (D / 2,), of scalings that GGUF holds so; None of others."""
    scaling = config.rope_scaling
    if not isinstance(scaling, Llama3Scaling | DividedScaling):
        return None
    plain = frequencies(config.head_dim, config.rope_theta, None)
    return plain / scaling.scaled(plain, config.rope_theta)
