"""Which tiles fit into the shared memory of a GPU: consumer cards have 99 KB a program, AMD's 64, an H200 has 227."""

from collections.abc import Callable
from typing import TypeVar

from bitnet_jit.problem import Problem

Config = TypeVar("Config")

ELEMENT_BYTES = {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}


def x_bytes(problem: Problem) -> int:
    """Bytes of an element of x as the matrix units read it: codes, or floats."""
    return 1 if problem.activation == "a8" else ELEMENT_BYTES[problem.x_dtype]


def fitting(problem: Problem, found: tuple[Config, ...], num_bytes: Callable[[Config], int]) -> tuple[Config, ...]:
    """The configs whose tiles fit, in their order; where none does, the one that needs the least."""
    if problem.gpu is None:
        return found
    most = problem.gpu.shared_memory
    return tuple(config for config in found if num_bytes(config) <= most) or (min(found, key=num_bytes),)
