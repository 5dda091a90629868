"""Gemma 3's parts besides, by which of its layers are local; the readers of folders and of GGUF files say that."""

import logging
import math
from dataclasses import replace

from bitnet_jit.checkpoints.formats.intervals import every_nth
from bitnet_jit.models.config import DecoderConfig, LocalLayers, Multipliers

logger = logging.getLogger(__name__)

INTERVAL = 6  # every sixth layer sees all tokens
WINDOW = 4096  # tokens, where a file has none
LOCAL_THETA = 10_000.0


def local_layers(interval: int, num_layers: int) -> tuple[bool, ...]:
    """Return of each layer whether it is local, where every n-th sees all tokens.

    >>> local_layers(3, 4)
    (True, True, False, True)
    """
    return tuple(not sees_all for sees_all in every_nth(interval, num_layers))


def with_gemma3(
    config: DecoderConfig, is_local: tuple[bool, ...], theta: float, window: int, query_scalar: float, where: str
) -> DecoderConfig:
    """Return an architecture with the parts that Gemma 3 has besides.

    Attention sees all tokens, as local layers do while there are no more than their window. The context ends there.

    Args:
        config: what other models have, too.
        is_local: layer by layer, whether it sees a window of the last tokens.
        theta: base of the rotary frequencies of local layers.
        window: tokens that they see.
        query_scalar: products of queries and keys are divided by its root.
        where: the file, for the log.
    """
    context = min(config.context_length, window) if any(is_local) else config.context_length
    if context < config.context_length:
        words = "%s: some layers see the last %d tokens alone: the context is %d tokens instead of %d"
        logger.warning(words, where, window, context, config.context_length)
    return replace(
        config,
        context_length=context,
        multipliers=gemma3_multipliers(config.hidden_size, config.head_dim, query_scalar),
        branch_norms=True,
        local=LocalLayers(is_local, theta) if any(is_local) else None,
    )


def gemma3_multipliers(hidden_size: int, head_dim: int, query_scalar: float) -> Multipliers:
    """Return the constants of a model: products of queries and keys are divided by the root of `query_scalar`.

    >>> gemma3_multipliers(64, 32, 32.0).embedding
    8.0
    """
    return Multipliers(math.sqrt(hidden_size), query=math.sqrt(head_dim / query_scalar))


def in_files(config: DecoderConfig) -> DecoderConfig:
    """Return a decoder's architecture as its files are to say it: Gemma's constants are in no weight there."""
    if not config.branch_norms or config.multipliers != Multipliers():
        return config
    return replace(config, multipliers=gemma3_multipliers(config.hidden_size, config.head_dim, config.head_dim))
