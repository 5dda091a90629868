"""The gated DeltaNet that a config.json of Qwen3.5 describes, read and written."""

from dataclasses import replace
from typing import Any

from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.hf_rope import read_rotated
from bitnet_jit.checkpoints.formats.intervals import every_nth, interval_of
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.config import DecoderConfig, DeltaNetConfig
from bitnet_jit.problem import MAX_IN_FEATURES, MAX_TAPS

PARTIAL = 0.25  # the share of a head's dimensions that turn, where config.json has none
INTERVAL = 4  # every fourth block attends
LAYERS = {"linear_attention": False, "full_attention": True}


def with_delta_net(config: DecoderConfig, fields: Fields) -> DecoderConfig:
    """Return an architecture with the parts that Qwen3.5 has besides."""
    rotated_dims = read_rotated(fields, config.head_dim, PARTIAL)
    net = read_delta_net(fields, config.num_layers)
    return replace(config, output_gate=True, rotated_dims=rotated_dims, delta_net=net)


def read_delta_net(fields: Fields, num_layers: int) -> DeltaNetConfig:
    """Return the gated DeltaNet of a model.

    Raises:
        CheckpointError: a field is wrong, or describes what we cannot run; it names the field.
    """
    key_heads = fields.integer("linear_num_key_heads", 16, high=2**12)
    value_heads = fields.integer("linear_num_value_heads", 32, high=2**12)
    if value_heads % key_heads:
        raise fields.refuse("linear_num_value_heads", f"a multiple of linear_num_key_heads {key_heads}")
    net = DeltaNetConfig(
        read_attends(fields, num_layers),
        key_heads,
        value_heads,
        fields.integer("linear_key_head_dim", 128, high=2**10),
        fields.integer("linear_value_head_dim", 128, high=2**10),
        fields.integer("linear_conv_kernel_dim", 4, low=2, high=MAX_TAPS),
    )
    check_sizes(net, fields.where)
    return net


def read_attends(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """Return of each block whether it attends."""
    kinds = fields.words("layer_types")
    if kinds is None:
        interval = fields.integer("full_attention_interval", INTERVAL)
        attends = every_nth(interval, num_layers)
    else:
        if len(kinds) != num_layers or set(kinds) - LAYERS.keys():
            raise fields.refuse("layer_types", f"{num_layers} of 'linear_attention' or 'full_attention'")
        attends = tuple(LAYERS[kind] for kind in kinds)
    if all(attends) or not any(attends):
        raise CheckpointError(f"{fields.where}: layer_types: expected both linear_attention and full_attention")
    return attends


def check_sizes(net: DeltaNetConfig, where: str) -> None:
    """Raise CheckpointError where the features of all heads are more than a layer takes."""
    if net.mixed_features > MAX_IN_FEATURES:
        raise CheckpointError(
            f"{where}: the heads of the gated DeltaNet have {net.mixed_features} features together, expected at most "
            f"{MAX_IN_FEATURES}"
        )


def delta_net_json(net: DeltaNetConfig) -> dict[str, Any]:
    """Return what a config.json says of the gated DeltaNet of a model."""
    words = {attends: word for word, attends in LAYERS.items()}
    interval = interval_of(net.attends)
    return {
        "layer_types": [words[attends] for attends in net.attends],
        **({} if interval is None else {"full_attention_interval": interval}),
        "linear_num_key_heads": net.key_heads,
        "linear_num_value_heads": net.value_heads,
        "linear_key_head_dim": net.key_dim,
        "linear_value_head_dim": net.value_dim,
        "linear_conv_kernel_dim": net.taps,
    }
