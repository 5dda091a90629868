"""What a config.json of Gemma 3 says besides: local layers, their window and frequencies, the scale of queries.

It is read and written.
"""

import math
from typing import Any

from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.gemma3 import INTERVAL, LOCAL_THETA, WINDOW, local_layers, with_gemma3
from bitnet_jit.models.config import DecoderConfig

LAYERS = {"sliding_attention": True, "full_attention": False}
PARAMETERS = "rope_parameters"  # of transformers 5, by kinds of layers
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
ACTIVATION = "gelu_pytorch_tanh"
QUERY_SCALAR = 256.0


def read_gemma3(config: DecoderConfig, fields: Fields) -> DecoderConfig:
    """Return an architecture with Gemma 3's parts.

    Raises:
        CheckpointError: a field is wrong, or describes what we cannot run; it names the field.
    """
    if fields.flag("use_bidirectional_attention", False):
        raise fields.refuse("use_bidirectional_attention", "false: tokens see those before them alone")
    for cap in CAPS:
        if fields.values.get(cap) is not None:
            raise fields.refuse(cap, "null: no logits are capped")
    fields.word("hidden_activation", (ACTIVATION,), ACTIVATION)
    theta = local_parameters(fields).positive("rope_theta", fields.positive("rope_local_base_freq", LOCAL_THETA))
    window = fields.integer("sliding_window", WINDOW)
    scalar = fields.positive("query_pre_attn_scalar", QUERY_SCALAR)
    return with_gemma3(config, read_local(fields, config.num_layers), theta, window, scalar, fields.where)


def read_local(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """Return of each layer whether it is local."""
    kinds = fields.words("layer_types")
    if kinds is None:
        name = "sliding_window_pattern" if "sliding_window_pattern" in fields.values else "_sliding_window_pattern"
        return local_layers(fields.integer(name, INTERVAL), num_layers)
    if len(kinds) != num_layers or set(kinds) - LAYERS.keys():
        raise fields.refuse("layer_types", f"{num_layers} of {' or '.join(map(repr, LAYERS))}")
    return tuple(LAYERS[kind] for kind in kinds)


def local_parameters(fields: Fields) -> Fields:
    """Return the rotary parameters of local layers, none where the file has one base for them alone.

    Raises:
        CheckpointError: their frequencies are scaled.
    """
    by_kind = fields.inner(PARAMETERS)
    inner = None if by_kind is None else by_kind.inner("sliding_attention")
    if inner is None:
        return Fields({}, fields.where)
    inner.word("rope_type", ("default",), "default")
    return inner


def global_fields(fields: Fields) -> Fields:
    """Return the fields of a config.json as other models have them: rotary parameters are those of global layers."""
    by_kind = fields.inner(PARAMETERS)
    inner = None if by_kind is None else by_kind.inner("full_attention")
    return fields if inner is None else Fields({**fields.values, PARAMETERS: inner.values}, fields.where)


def gemma3_json(config: DecoderConfig) -> dict[str, Any]:
    """Return what a config.json says of Gemma 3's parts; their window is the context, see `with_gemma3`."""
    words = {is_local: word for word, is_local in LAYERS.items()}
    is_local = (False,) * config.num_layers if config.local is None else config.local.is_local
    theta = LOCAL_THETA if config.local is None else config.local.rope_theta
    return {
        "hidden_activation": ACTIVATION,
        "layer_types": [words[flag] for flag in is_local],
        "sliding_window": config.context_length,
        "rope_local_base_freq": theta,
        "query_pre_attn_scalar": query_scalar(config.head_dim, config.multipliers.query),
    }


def query_scalar(head_dim: int, multiplier: float) -> float:
    """Return what gives a multiplier of queries, a whole number where there is one.

    >>> query_scalar(32, math.sqrt(32 / 20)), query_scalar(32, 1.0)
    (20, 32)
    """
    scalar = head_dim / multiplier**2
    near = (round(scalar), scalar, math.nextafter(scalar, 0.0), math.nextafter(scalar, math.inf))
    return next((one for one in near if one > 0 and math.sqrt(head_dim / one) == multiplier), scalar)
