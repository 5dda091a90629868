"""What the metadata of a GGUF file of Gemma 3 says besides: local layers, their window and frequencies."""

from collections.abc import Callable

import numpy as np

from bitnet_jit.checkpoints.formats.gemma3 import INTERVAL, LOCAL_THETA, WINDOW, every, with_gemma3
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.errors import CheckpointError
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
        return every(keys.integer(name, INTERVAL), num_layers)
    if len(value) != num_layers or value.dtype.kind not in "biu":
        raise keys.refuse(name, f"{num_layers} flags")
    return tuple(map(bool, value.tolist()))
