"""Qwen3.5's gated DeltaNet in a GGUF file: its sizes, and the order in which its heads of values lie.

Heads of values stand tiled in a file: head r * n_k + g there is our head g * (n_v / n_k) + r, where n_k heads of keys
serve n_v of values. So do the rows of v and z, the channels of the convolution behind those of q and k, the numbers per
head, and the columns of the layer behind them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.intervals import every_nth, interval_of
from bitnet_jit.checkpoints.fused_layers import per_group
from bitnet_jit.checkpoints.ternary import TernaryWeight, with_rows
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig, DeltaNetConfig
from bitnet_jit.problem import MAX_TAPS

CODES_PER_BYTE = 4
Order = Callable[[torch.Tensor, DeltaNetConfig], torch.Tensor]  # of rows by heads: `heads_in_order` or `heads_as_tiled`


def with_delta_net(config: DecoderConfig, keys: Keys, of: Callable[[str], str]) -> DecoderConfig:
    """Return an architecture with the parts that Qwen3.5 has besides."""
    rotated_dims = keys.integer(of("rope.dimension_count"), config.head_dim, 2, config.head_dim)
    if rotated_dims % 2:
        raise keys.refuse(of("rope.dimension_count"), "an even number")
    return replace(
        config, output_gate=True, rotated_dims=rotated_dims, delta_net=read_delta_net(keys, of, config.num_layers)
    )


def read_delta_net(keys: Keys, of: Callable[[str], str], num_layers: int) -> DeltaNetConfig:
    """Return the gated DeltaNet that metadata describes."""
    interval = keys.integer(of("full_attention_interval"), 4)
    attends = every_nth(interval, num_layers)
    if all(attends) or not any(attends):
        raise keys.refuse(of("full_attention_interval"), f"2 to {num_layers}, the number of blocks")
    key_heads, value_heads = keys.integer(of("ssm.group_count")), keys.integer(of("ssm.time_step_rank"))
    if value_heads % key_heads:
        raise keys.refuse(of("ssm.time_step_rank"), f"a multiple of ssm.group_count {key_heads}")
    inner = keys.integer(of("ssm.inner_size"), high=2**20)
    if inner % (CODES_PER_BYTE * value_heads):
        raise keys.refuse(of("ssm.inner_size"), f"a multiple of {CODES_PER_BYTE} * ssm.time_step_rank {value_heads}")
    taps = keys.integer(of("ssm.conv_kernel"), low=2, high=MAX_TAPS)
    key_dim = keys.integer(of("ssm.state_size"), high=2**10)
    return DeltaNetConfig(attends, key_heads, value_heads, key_dim, inner // value_heads, taps)


def heads_in_order(rows: torch.Tensor, net: DeltaNetConfig) -> torch.Tensor:
    """Return rows (value_heads * n, ...) of a file in our order of heads.

    >>> net = DeltaNetConfig((False, True), key_heads=2, value_heads=4, key_dim=8, value_dim=8, taps=4)
    >>> heads_in_order(torch.tensor([0, 2, 1, 3]), net)
    tensor([0, 1, 2, 3])
    """
    tiled: torch.Tensor = rows.unflatten(0, (net.value_heads // net.key_heads, net.key_heads, -1))
    return tiled.transpose(0, 1).reshape(rows.shape)


def heads_as_tiled(rows: torch.Tensor, net: DeltaNetConfig) -> torch.Tensor:
    """Return our rows (value_heads * n, ...) in the order of a file.

    >>> net = DeltaNetConfig((False, True), key_heads=2, value_heads=4, key_dim=8, value_dim=8, taps=4)
    >>> heads_as_tiled(torch.tensor([0, 1, 2, 3]), net)
    tensor([0, 2, 1, 3])
    """
    heads: torch.Tensor = rows.unflatten(0, (net.key_heads, net.value_heads // net.key_heads, -1))
    return heads.transpose(0, 1).reshape(rows.shape)


def reorder_floats(name: str, floats: torch.Tensor, net: DeltaNetConfig, order: Order) -> torch.Tensor:
    """Return a tensor of floats of a gated DeltaNet by our name with its heads in an order; any other as it is."""
    part = name.rsplit(".", 2)[-2:]
    if part[0] != "delta_net" or part[1] in ("norm", "head_norm"):
        return floats
    return reorder_values(floats, net, order) if part[1] == "conv" else order(floats, net)


def reorder_values(rows: torch.Tensor, net: DeltaNetConfig, order: Order) -> torch.Tensor:
    """Return rows of q, k and v with the heads of v in an order."""
    values = len(rows) - net.value_features
    return torch.cat((rows[:values], order(rows[values:], net)))


def reorder_layer(weight: TernaryWeight, layer: LinearName, net: DeltaNetConfig, order: Order) -> TernaryWeight:
    """Return a layer of a gated DeltaNet with its heads in an order, any other as it is; codes stay where they are.

    Raises:
        InvalidInput: heads share a byte of codes, or a group of scales but in part.
    """
    part = layer.name.rsplit(".", 2)[-2:]
    if part[0] != "delta_net":
        return weight
    if is_behind_heads(layer.name):
        return reorder_columns(weight, net, order)
    if part[1] == "z":
        return with_rows(weight, lambda rows: order(rows, net))
    return with_rows(weight, lambda rows: reorder_values(rows, net, order))


def is_behind_heads(name: str) -> bool:
    """Return whether a layer, by our name, has the heads of values as its inputs."""
    return name.endswith("delta_net.output")


def reorder_columns(weight: TernaryWeight, net: DeltaNetConfig, order: Order) -> TernaryWeight:
    """Return the layer behind the heads with its columns in an order; groups of scales that two heads share part."""
    if net.value_dim % CODES_PER_BYTE:
        raise InvalidInput(f"a gated DeltaNet's heads of values have {net.value_dim} features, no multiple of 4")
    weight.w_packed.copy_(order(weight.w_packed.T, net).T)
    if not weight.group_size:
        return weight
    size = weight.group_size if net.value_dim % weight.group_size == 0 else net.value_dim
    if weight.group_size % size:
        raise InvalidInput(
            f"a gated DeltaNet's output: expected scales per {net.value_dim} inputs, those of a head, or a part or a "
            f"multiple of them, got {weight.group_size}"
        )
    return replace(weight, w_scale=order(per_group(weight, size).T, net).T.contiguous(), group_size=size)


def delta_net_keys(config: DecoderConfig) -> dict[str, Any]:
    """Return the keys of a gated DeltaNet, without the architecture before them; none of a model without one.

    Raises:
        InvalidInput: no interval says which blocks attend.
    """
    if (net := config.delta_net) is None:
        return {}
    if (interval := interval_of(net.attends)) is None:
        blocks = [index for index, attends in enumerate(net.attends) if attends]
        raise InvalidInput(f"format: in GGUF every so manyth block attends, got blocks {blocks}")
    third, rest = divmod((config.rotated_dims or config.head_dim) // 2, 3)
    return {
        # pairs of dimensions that turn with time, height and width of pictures: in texts the three are one position
        "rope.dimension_sections": [third + (rest > 0), third + (rest > 1), third, 0],
        "full_attention_interval": interval,
        "ssm.conv_kernel": net.taps,
        "ssm.state_size": net.key_dim,
        "ssm.group_count": net.key_heads,
        "ssm.time_step_rank": net.value_heads,
        "ssm.inner_size": net.value_features,
    }
