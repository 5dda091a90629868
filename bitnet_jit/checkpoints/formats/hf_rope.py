"""Rotary positions in a config.json of Hugging Face, read and written."""

import math
from collections.abc import Callable
from typing import Any

from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.models.rope_scaling import (
    DividedScaling,
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    longrope_magnitude,
    yarn_magnitude,
)

ORIGINAL = "original_max_position_embeddings"
TYPES = ("default", "linear", "llama3", "yarn", "longrope")


def read_rope(
    fields: Fields, theta: float, context_length: int, turns_whole: bool = True
) -> tuple[float, RopeScaling | None]:
    """Read rotary base and scaling from transformers 5's rope_parameters or the older rope_theta and rope_scaling.

    Args:
        fields: of the config.json.
        theta: the base where it says none.
        context_length: tokens that the model reads at most.
        turns_whole: whether every dimension of a head must turn.
    """
    inner = fields.inner("rope_scaling") or fields.inner("rope_parameters") or Fields({}, fields.where)
    base = inner.positive("rope_theta", fields.positive("rope_theta", theta))
    for place in (fields, inner):
        if turns_whole and place.positive("partial_rotary_factor", 1.0) != 1.0:
            raise place.refuse("partial_rotary_factor", "1 (every dimension of a head turns)")
    kind = inner.word("rope_type" if "rope_type" in inner.values else "type", TYPES, "default")
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, LinearScaling(inner.positive("factor"))
    original = fields.integer(ORIGINAL, 0, low=0) or inner.integer(ORIGINAL, context_length)
    return base, READERS[kind](inner, original, context_length)


def read_rotated(fields: Fields, head_dim: int, share: float) -> int:
    """Return how many dimensions of a head turn: a share of them where config.json has none.

    >>> read_rotated(Fields({"rope_parameters": {"partial_rotary_factor": 0.5}}, "config.json"), 256, 0.25)
    128
    """
    inner = fields.inner("rope_scaling") or fields.inner("rope_parameters") or Fields({}, fields.where)
    place = inner if "partial_rotary_factor" in inner.values else fields
    rotated = int(head_dim * place.positive("partial_rotary_factor", share))
    if not 2 <= rotated <= head_dim or rotated % 2:
        raise place.refuse("partial_rotary_factor", f"an even number of the {head_dim} dimensions of a head")
    return rotated


def share_of(rotated_dims: int, head_dim: int) -> float:
    """Return the partial_rotary_factor of a config.json, which `read_rotated` takes for so many dimensions.

    >>> share_of(64, 256)
    0.25
    """
    share = rotated_dims / head_dim
    return share if int(head_dim * share) == rotated_dims else math.nextafter(share, 1.0)


def read_llama3(inner: Fields, original: int, context_length: int) -> Llama3Scaling:  # noqa: ARG001
    """Read Llama 3.1's scaling."""
    low, high = inner.positive("low_freq_factor"), inner.positive("high_freq_factor")
    if high <= low:
        raise inner.refuse("high_freq_factor", f"a number above low_freq_factor {low}")
    return Llama3Scaling(inner.positive("factor"), low, high, original)


def read_yarn(inner: Fields, original: int, context_length: int) -> YarnScaling:
    """Read YaRN's scaling."""
    factor = inner.positive("factor", context_length / original)
    weight, of_all = inner.positive("mscale", 1.0), inner.positive("mscale_all_dim", 1.0)
    both = "mscale" in inner.values and "mscale_all_dim" in inner.values
    usual = yarn_magnitude(factor, weight) / yarn_magnitude(factor, of_all) if both else yarn_magnitude(factor)
    return YarnScaling(
        factor,
        original,
        inner.positive("beta_fast", 32.0),
        inner.positive("beta_slow", 1.0),
        inner.positive("attention_factor", usual),
        inner.flag("truncate", True),
    )


def read_longrope(inner: Fields, original: int, context_length: int) -> DividedScaling:
    """Read LongRoPE's scaling: the long list where the model reads more than its original context, else the short one.

    transformers takes the short list for short texts of such a model, too; a kept token would change with the text.
    """
    factor = inner.positive("factor", context_length / original)
    name = "long_factor" if context_length > original else "short_factor"
    magnitude = inner.positive("attention_factor", longrope_magnitude(factor, original))
    return DividedScaling(inner.positives(name), magnitude)


READERS: dict[str, Callable[[Fields, int, int], RopeScaling]] = {
    "llama3": read_llama3,
    "yarn": read_yarn,
    "longrope": read_longrope,
}


def scaling_json(scaling: RopeScaling) -> dict[str, Any]:
    """Return the rope_scaling of a config.json."""
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, DividedScaling):
        lists = dict.fromkeys(("short_factor", "long_factor"), list(scaling.divisors))
        return {"rope_type": "longrope", "attention_factor": scaling.magnitude, "factor": 1.0, **lists}
    both = {"factor": scaling.factor, ORIGINAL: scaling.original_context}
    if isinstance(scaling, Llama3Scaling):
        bounds = {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        return {"rope_type": "llama3", **both, **bounds}
    return {
        "rope_type": "yarn",
        **both,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "attention_factor": scaling.magnitude,
        "truncate": scaling.truncate,
    }
