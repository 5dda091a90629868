"""`paged_attention` on MLX's arrays: keys and values are written by MLX's operations, since arrays do not change; the
kernels that attend are Metal's."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.metal.attention import paged
from bitnet_jit.kernels.mlx.launch import Values, prepare
from bitnet_jit.kernels.mlx.plain.attention import Pages, parts_of, written
from bitnet_jit.problem import Problem

MAX_SHAPES = 256  # of calls, whose launches are kept for one problem
NAMES = ("qkv", "keys", "values", "rotary", "positions", "starts", "tables", "key_scale", "value_scale")
PAGES = ("keys", "values", "key_scale", "value_scale")


def bind(problem: Problem, config: Config) -> Callable[..., tuple[mx.array, ...]]:
    """Bind the op: (*arguments in rows) -> y, and the new pages in the arguments' order."""
    varying = paged.bind(problem, config, writes=False)

    @lru_cache(MAX_SHAPES)
    def runs(tokens: int, shape: tuple[int, int]) -> list[Any]:
        bound = varying.of({"positions": (tokens,), "tables": shape})
        made = {"y": ((tokens, problem.out_features), problem.x_dtype)} | bound.scratch(tokens)
        return [prepare(launch, made) for launch in bound.launches(tokens)]

    def run(*arguments: Any) -> tuple[mx.array, ...]:
        call: Values = dict(zip(NAMES, arguments, strict=True))
        parts = parts_of(call["positions"], call["starts"], call["tables"])
        cache = written(Pages(*(call[name] for name in PAGES)), call["qkv"], call["rotary"], parts, problem)
        tokens = call["qkv"].shape[0]
        if not tokens:
            return mx.zeros((0, problem.out_features), dtype=call["qkv"].dtype), *cache.arrays()
        call |= zip(PAGES, (cache.keys, cache.values, cache.key_scale, cache.value_scale), strict=True)
        for launch in runs(tokens, tuple(call["tables"].shape)):
            launch(call)
        return call["y"], *cache.arrays()

    return run


def kernels() -> tuple[Kernel, ...]:
    """Return the kernel of the op."""
    return tuple(replace(kernel, bind=bind) for kernel in paged.kernels("mlx"))
