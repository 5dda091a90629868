"""Qwen3.5's gated DeltaNet in a GGUF file: its sizes, and the order in which its heads of values lie.

Heads of values stand tiled in a file: head r * n_k + g there is our head g * (n_v / n_k) + r, where n_k heads of keys
serve n_v of values. So do the rows of v and z, the channels of the convolution behind those of q and k, the numbers per
head, and the columns of the layer behind them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.fused_layers import per_group
from bitnet_jit.checkpoints.ternary import TernaryWeight, with_rows
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.config import DecoderConfig, DeltaNetConfig
from bitnet_jit.problem import MAX_TAPS

CODES_PER_BYTE = 4


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
    attends = tuple((index + 1) % interval == 0 for index in range(num_layers))
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


def floats_in_order(name: str, floats: torch.Tensor, net: DeltaNetConfig) -> torch.Tensor:
    """Return a tensor of floats of a gated DeltaNet by our name, in our order; any other as it is."""
    part = name.rsplit(".", 2)[-2:]
    if part[0] != "delta_net" or part[1] in ("norm", "head_norm"):
        return floats
    if part[1] == "conv":
        return values_in_order(floats, net)
    return heads_in_order(floats, net)


def values_in_order(rows: torch.Tensor, net: DeltaNetConfig) -> torch.Tensor:
    """Return rows of q, k and v of a file with those of v in our order of heads."""
    values = len(rows) - net.value_features
    return torch.cat((rows[:values], heads_in_order(rows[values:], net)))


def layer_in_order(weight: TernaryWeight, layer: LinearName, net: DeltaNetConfig) -> TernaryWeight:
    """Return a layer of a gated DeltaNet in our order of heads, any other as it is; codes stay where they are."""
    part = layer.name.rsplit(".", 2)[-2:]
    if part[0] != "delta_net":
        return weight
    if part[1] == "output":
        return columns_in_order(weight, net)
    order = heads_in_order if part[1] == "z" else values_in_order
    return with_rows(weight, lambda rows: order(rows, net))


def columns_in_order(weight: TernaryWeight, net: DeltaNetConfig) -> TernaryWeight:
    """Return the layer behind the heads with its columns in our order; groups of scales that two heads share part."""
    weight.w_packed.copy_(heads_in_order(weight.w_packed.T, net).T)
    if not weight.group_size:
        return weight
    size = weight.group_size if net.value_dim % weight.group_size == 0 else net.value_dim
    if weight.group_size % size:
        raise CheckpointError(
            f"a gated DeltaNet's output: expected scales per {net.value_dim} inputs, those of a head, or a part or a "
            f"multiple of them, found {weight.group_size}"
        )
    return replace(weight, w_scale=heads_in_order(per_group(weight, size).T, net).T.contiguous(), group_size=size)
