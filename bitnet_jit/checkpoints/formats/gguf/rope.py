"""Rotary positions in the metadata of a GGUF file, and in its tensors of divisors, which some have.

`rope_freqs.weight` holds those of Llama 3.1; `rope_factors_long.weight` and `rope_factors_short.weight` are LongRoPE's.
"""

import torch

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.models.rope_scaling import DividedScaling, LinearScaling, RopeScaling, YarnScaling, yarn_magnitude

PLAIN, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


def read_rope_scaling(keys: Keys, architecture: str, divisors: torch.Tensor | None) -> RopeScaling | None:
    """Return how a file's frequencies are stretched, None where they are plain.

    Args:
        keys: of the file.
        architecture: the word before its keys.
        divisors: (D / 2,), None where there is no such tensor.

    Raises:
        CheckpointError: a key is wrong, or asks for another way.
    """

    def of(name: str) -> str:
        return f"{architecture}.rope.scaling.{name}"

    kind = keys.word(of("type"), ("none", "linear", "yarn", "longrope"), "none")
    factor = keys.positive(of("factor"), 1.0)
    if kind == "longrope":
        if divisors is None:
            raise keys.refuse(of("type"), "no longrope without the tensors of its divisors")
        return DividedScaling(tuple(divisors.tolist()), keys.positive(of("attn_factor"), 1.0))
    if divisors is not None:
        if kind != "none" and factor != 1.0:
            raise keys.refuse(of("factor"), "1 beside rope_freqs.weight")
        return DividedScaling(tuple(divisors.tolist()))
    if kind == "yarn":
        magnitude = keys.positive(of("attn_factor"), 1.0) * yarn_magnitude(factor)
        original = keys.integer(of("original_context_length"))
        beta_fast, beta_slow = keys.positive(of("yarn_beta_fast"), 32.0), keys.positive(of("yarn_beta_slow"), 1.0)
        if keys.positive(of("yarn_log_multiplier"), 1.0) != 1.0:
            raise keys.refuse(of("yarn_log_multiplier"), "1")
        return YarnScaling(factor, original, beta_fast, beta_slow, magnitude)
    return None if kind == "none" or factor == 1.0 else LinearScaling(factor)


def rope_tensors(keys: Keys, architecture: str) -> tuple[str, ...]:
    """Return the names of the tensors of divisors that a model may have, the one that is used first.

    LongRoPE has two lists, of which the longer one is for a context beyond the original one.
    """
    if keys.text(f"{architecture}.rope.scaling.type", "none") != "longrope":
        return (PLAIN,)
    original = keys.integer(f"{architecture}.rope.scaling.original_context_length", 2**31 - 1)
    is_long = keys.integer(f"{architecture}.context_length", 0, low=0) > original
    return (LONG, SHORT) if is_long else (SHORT, LONG)
