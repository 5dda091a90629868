"""The call of a kernel between a float weight and a packed one: blocks of 64 outputs are shared out among threads."""

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.numba.bound import Bound, Entry, Operands
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES
from bitnet_jit.kernels.numba.layout import BLOCK, I2_TILES
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES
from bitnet_jit.kernels.numba.threads.team import TeamConfig, likely_teams
from bitnet_jit.problem import Problem

SMALL_WORK = 2**16  # weights under which a second thread costs more than it brings
SIGNATURE = (types.int64,) * 8


@dataclass(frozen=True)
class WeightSpec:
    """The properties that a kernel is compiled for: the floats' dtype, and whether each output has its own scale."""

    dtype: str
    row_scales: bool = False

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]


class WeightJob(NamedTuple):
    """The operands of one call, all int64."""

    w: int  # (out_features, in_features) spec.dtype
    packed: int  # (blocks, steps, 4, 64) uint8
    scale: int  # () or (out_features,) float32
    out_features: int
    in_features: int
    fork: int
    threads: int
    counters: int
    sums: int  # (blocks,) float64


def bind_weight(operands: Operands, entry: Entry, problem: Problem, config: TeamConfig) -> Bound:
    """Return a kernel bound to a problem; its workspace holds counters, and a sum for each block of outputs."""
    num_bytes = TEAM_BYTES + 8 * -(-problem.out_features // BLOCK)
    sizes = problem.out_features, problem.in_features
    return Bound(operands, lambda rows: entry, lambda rows: sizes, lambda rows, threads: num_bytes, config.max_threads)


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return configs by the number of threads."""
    return likely_teams([None], problem.out_features * problem.in_features < SMALL_WORK)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, in words, or None."""
    if problem.layout != I2_TILES.name:
        return f"knows the layout {I2_TILES.name}, not {problem.layout!r}"
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None
