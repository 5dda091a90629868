"""Which tiles suit a GPU: how many there are for each multiprocessor, and whether they fit into its shared memory.

Consumer cards have 99 KB of it a program, AMD's 64, an H200 has 227.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import triton

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
    """Bytes of an element of x as the matrix units read it: codes, or floats."""
    return 1 if problem.activation == "a8" else ELEMENT_BYTES[problem.x_dtype]


def multiprocessors(problem: Problem) -> int:
    """Of the problem's GPU, or of an H200."""
    return 132 if problem.gpu is None else problem.gpu.multiprocessors


def tiles_of(problem: Problem, rows: int, block_m: int, block_n: int = 64) -> int:
    """How many tiles of so many rows and outputs there are."""
    return triton.cdiv(rows, block_m) * triton.cdiv(problem.out_features, block_n)


def heights(problem: Problem) -> tuple[int, ...]:
    """Heights of tiles that may suit the rows: all of them, or half, or up to 256 of many."""
    most = max(16, problem.rows)
    return tuple(height for height in (16, 32, 64, 128, 256) if min(most // 2, 32) <= height <= most)


def work(problem: Problem, outputs: int, block_m: int, block_n: int) -> int:
    """Outputs that the busiest multiprocessor computes of (rows, outputs) in such tiles."""
    tiles = triton.cdiv(problem.rows, block_m) * triton.cdiv(outputs, block_n)
    return triton.cdiv(tiles, multiprocessors(problem)) * block_m * block_n


def by_cost(problem: Problem, costs: dict[Sized, float]) -> tuple[Sized, ...]:
    """Tiles, first the one that gives the busiest multiprocessor the least to do, by what an output costs in each."""
    outputs = problem.out_features
    return tuple(sorted(costs, key=lambda tile: costs[tile] * work(problem, outputs, tile.block_m, tile.block_n)))


def fitting(problem: Problem, found: tuple[Config, ...], num_bytes: Callable[[Config], int]) -> tuple[Config, ...]:
    """The configs whose tiles fit, in their order; where none does, the one that needs the least."""
    if problem.gpu is None:
        return found
    most = problem.gpu.shared_memory
    return tuple(config for config in found if num_bytes(config) <= most) or (min(found, key=num_bytes),)
