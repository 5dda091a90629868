"""The dtype of cached keys and values: that of the activations, floats of another width, or int8 with a scale each.

A cache of int8 takes (D + 4) / (2 D) of the bytes of one in 16 bits, D numbers of a head; `reference/attention.py` says
what it holds.
"""

import torch

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.problem import Problem

CACHES = ("auto", "float32", "bfloat16", "int8")


def kv_dtype(cache: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of keys and values for a word, where activations have a dtype.

    Raises:
        InvalidInput: there is no such word, or no kernel but the plain one runs such a cache on the device.

    >>> kv_dtype("auto", torch.bfloat16, torch.device("cpu"))
    torch.bfloat16
    """
    if not isinstance(cache, str) or cache not in CACHES:
        raise InvalidInput(f"cache: expected one of {', '.join(CACHES)}, got {show(cache)}")
    if cache == "auto":
        return dtype
    if cache == "int8" and (reason := refusal(device)):
        raise InvalidInput(f"cache: 'int8' is not for {device} ({reason}); use 'auto', 'float32' or 'bfloat16'")
    kept: torch.dtype = getattr(torch, cache)
    return kept


def refusal(device: torch.device) -> str | None:
    """Return why no kernel but the plain one runs a cache of int8 on a device that is not the CPU, or None."""
    problem = Problem("paged_attention", device.type, 1, 64, 192, heads=1, kv_heads=1, head_dim=64, cache_dtype="int8")
    fitting, refusals = registry.candidates(problem)
    if device.type == "cpu" or not all(map(registry.is_fallback, fitting)):
        return None
    return next(
        (f"its kernel {reason}" for name, reason in refusals.items() if "." in name), "it has no kernel for that"
    )
