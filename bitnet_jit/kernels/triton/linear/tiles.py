"""The choice of tiles for a GPU: their number per multiprocessor, and whether they fit into its shared memory.

A program has 99 KB of it on consumer cards, 64 on AMD's, 227 on an H200.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import triton

from bitnet_jit.kernels.triton.device.target import multiprocessors
from bitnet_jit.problem import Problem


class Tile(Protocol):
    """A config for tiles of so many rows and outputs."""

    @property
    def block_m(self) -> int: ...
    @property
    def block_n(self) -> int: ...


Config = TypeVar("Config")
Sized = TypeVar("Sized", bound=Tile)

ELEMENT_BYTES = {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}


def x_bytes(problem: Problem) -> int:
    """Return the bytes of an element of x as the matrix units read it: codes, or floats."""
    return 1 if problem.activation == "a8" else ELEMENT_BYTES[problem.x_dtype]


def tiles_of(problem: Problem, rows: int, block_m: int, block_n: int = 64) -> int:
    """Return the number of tiles of so many rows and outputs."""
    return triton.cdiv(rows, block_m) * triton.cdiv(problem.out_features, block_n)


def heights(problem: Problem) -> tuple[int, ...]:
    """Return the heights of tiles that may suit the rows: all of them, or half, or up to 256 of many."""
    most = max(16, problem.rows)
    return tuple(height for height in (16, 32, 64, 128, 256) if min(most // 2, 32) <= height <= most)


def work(problem: Problem, outputs: int, block_m: int, block_n: int) -> int:
    """Return how many outputs of (rows, outputs) the busiest multiprocessor computes in such tiles."""
    tiles = triton.cdiv(problem.rows, block_m) * triton.cdiv(outputs, block_n)
    return triton.cdiv(tiles, multiprocessors(problem.gpu)) * block_m * block_n


def by_cost(problem: Problem, costs: dict[Sized, float]) -> tuple[Sized, ...]:
    """Sort tiles by the busiest multiprocessor's time, the least first; `costs` has the cost of an output in each."""
    outputs = problem.out_features
    return tuple(sorted(costs, key=lambda tile: costs[tile] * work(problem, outputs, tile.block_m, tile.block_n)))


def fitting(problem: Problem, configs: tuple[Config, ...], num_bytes: Callable[[Config], int]) -> tuple[Config, ...]:
    """Return the configs whose tiles fit, in their order; where none does, the one that needs the least."""
    if problem.gpu is None:
        return configs
    most = problem.gpu.shared_memory
    return tuple(config for config in configs if num_bytes(config) <= most) or (min(configs, key=num_bytes),)
