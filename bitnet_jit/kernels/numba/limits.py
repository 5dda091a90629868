"""Measure what a CPU does at most: reads by one and by many streams, dot products, and AMX's products of tiles."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitnet_jit.devices.clock import min_seconds
from bitnet_jit.kernels.backend import Rates
from bitnet_jit.kernels.numba import peaks as loops
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason

READ_BYTES = 1 << 29  # more than caches hold
DOT4_STEPS, AMX_STEPS = 2_000_000, 200_000  # several milliseconds


def measure_rates(threads: int) -> Rates:
    """Return the rates of that many threads: of the fastest way to read, and of the fastest products."""
    words = np.ones(READ_BYTES // 8, np.int64)
    parts = [words[words.size * i // threads : words.size * (i + 1) // threads] for i in range(threads)]
    shapes = loops.tile_shapes()
    with ThreadPoolExecutor(threads) as pool:

        def rate(amount: float, run: Callable[[int], int]) -> float:
            return amount / min_seconds(lambda: list(pool.map(run, range(threads))))

        one_stream = rate(words.nbytes, lambda i: loops.read_one_stream(parts[i], 1))
        many_streams = rate(words.nbytes, lambda i: loops.read_many_streams(parts[i], 1))
        products = [rate(threads * DOT4_STEPS * loops.dot4_operations(), lambda i: loops.dot4_loop(DOT4_STEPS))]
        if amx_unsupported_reason() is None:
            operations = threads * AMX_STEPS * loops.AMX_OPERATIONS
            products.append(rate(operations, lambda i: loops.amx_loop(shapes.ctypes.data, AMX_STEPS)))
    return Rates(max(one_stream, many_streams), max(products))
