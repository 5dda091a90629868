"""What the metadata of a GGUF file of Gemma 3 says besides: local layers, their window and frequencies."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bitnet_jit.checkpoints.formats.gemma3 import INTERVAL, LOCAL_THETA, WINDOW, local_layers, with_gemma3
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import DecoderConfig

PATTERN = "attention.sliding_window_pattern"


def read_gemma3(config: DecoderConfig, keys: Keys, of: Callable[[str], str]) -> DecoderConfig:
    """Return an architecture with Gemma 3's parts; queries are scaled by the width of a head.

    Raises:
        CheckpointError: a key is wrong, it names the key, or there is no norm inside layers.
    """
    if not config.inner_norms:
        raise CheckpointError(
            f"{keys.where}: expected a norm inside each layer of gemma3, as BitNet embedding models have"
        )
    window = keys.same_integer(of("attention.sliding_window"), WINDOW)
    theta = keys.positive(of("rope.freq_base_swa"), LOCAL_THETA)
    is_local = read_local(keys, of(PATTERN), config.num_layers)
    return with_gemma3(config, is_local, theta, window, config.head_dim, keys.where)


def read_local(keys: Keys, name: str, num_layers: int) -> tuple[bool, ...]:
    """Return of each layer whether it is local: by an interval, or a flag per layer."""
    value = keys.values.get(name)
    if not isinstance(value, np.ndarray):
        return local_layers(keys.integer(name, INTERVAL), num_layers)
    if len(value) != num_layers or value.dtype.kind not in "biu":
        raise keys.refuse(name, f"{num_layers} flags")
    return tuple(map(bool, value.tolist()))


def gemma3_keys(config: DecoderConfig) -> dict[str, Any]:
    """Return the keys of Gemma 3's parts, without the architecture before them; none of other models.

    The context ends at the window, as it does here: see `with_gemma3`.

    Raises:
        InvalidInput: queries have another scale than llama.cpp gives them.
    """
    if not config.branch_norms:
        return {}
    if config.multipliers.query != 1.0:
        raise InvalidInput(
            f"format: in GGUF Gemma's queries are scaled by the root of a head's width {config.head_dim}, got "
            f"{config.multipliers.query:g} times that"
        )
    if (local := config.local) is None:
        return {PATTERN: 1}
    window = {"attention.sliding_window": config.context_length, PATTERN: list(local.is_local)}
    return window | {"rope.freq_base_swa": float(local.rope_theta)}
