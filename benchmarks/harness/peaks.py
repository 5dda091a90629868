"""Peaks of this CPU: the int8 products that its instructions add up on registers alone, measured beside contenders.

limit:peak dot4   the dot product of the instruction set that our kernels use
limit:peak amx    where the CPU has AMX: its product of tiles
"""

import numpy as np

from benchmarks.harness.contender import Contender
from benchmarks.harness.threads import MAX_CALLS, Threads
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason
from bitnet_jit.kernels.numba.peaks import AMX_OPERATIONS, amx_loop, dot4_loop, dot4_operations, tile_shapes

DOT4_STEPS = 2_000_000  # several milliseconds
AMX_STEPS = 200_000


def dot4_peak(threads: int) -> Contender:
    pool = Threads()
    dot4_loop(1)
    return Contender(
        name="limit:peak dot4",
        run=lambda _: pool.run(lambda part: dot4_loop(DOT4_STEPS)),
        result=lambda: np.array([dot4_loop(3)]),
        num_bytes=0,
        num_ops=threads * DOT4_STEPS * dot4_operations(),
        set_threads=pool.set_threads,
        max_calls=MAX_CALLS,
    )


def amx_peak(threads: int) -> Contender:
    config, pool = tile_shapes(), Threads()
    amx_loop(config.ctypes.data, 1)
    return Contender(
        name="limit:peak amx",
        run=lambda _: pool.run(lambda part: amx_loop(config.ctypes.data, AMX_STEPS)),
        result=lambda: np.array([amx_loop(config.ctypes.data, 3)]),
        num_bytes=0,
        num_ops=threads * AMX_STEPS * AMX_OPERATIONS,
        set_threads=pool.set_threads,
        max_calls=MAX_CALLS,
    )


def peaks(threads: int) -> list[Contender]:
    """Return the peaks of this CPU on that many threads."""
    return [dot4_peak(threads)] if amx_unsupported_reason() else [dot4_peak(threads), amx_peak(threads)]
