"""Jobs for the thread pool that tell what its threads did, and threads that can be slowed down. No torch here."""

from dataclasses import dataclass

import numba
import numpy as np
from numba import types

from bitnet_jit.kernels.numba.arrays import aligned
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.threads.parallel import (
    TEAM_BYTES,
    done,
    draw,
    member,
    next_piece,
    ranges_of,
    reset,
    run_team,
    wait,
)
from bitnet_jit.kernels.numba.threads.system_calls import nanoseconds, sleep

MAX_THREADS = 128
ENTERED, LEFT, FIRST_NUMBER = 0, 1, 2  # places in a log; then how often each thread number came


@jit
def spend(delay):
    """Work for so many nanoseconds; sleep where the number is negative."""
    if delay < 0:
        sleep(-delay)
    end = nanoseconds() + delay
    while nanoseconds() < end:
        pass


@jit
def body(fork, threads, counters, hits, pieces, log, delays, num_delays):
    """Count how often each piece is drawn, in two phases; delays come with the thread's and the pieces' numbers."""
    atomic_add(log + 8 * 0, 1)
    number = member(fork, counters)
    atomic_add(log + 8 * (2 + number), 1)
    spend(pointer(delays, types.int64)[number % num_delays])
    piece = draw(counters)
    while piece < pieces:
        atomic_add(hits + 8 * piece, 1)
        spend(pointer(delays, types.int64)[piece % num_delays])
        done(counters)
        piece = draw(counters)
    wait(counters, pieces)
    ranges = ranges_of(threads)
    piece, offset = next_piece(counters, number % ranges, 0, ranges, pieces)
    while piece >= 0:
        atomic_add(hits + 8 * piece, 1000)
        spend(pointer(delays, types.int64)[(piece + 1) % num_delays])
        piece, offset = next_piece(counters, number % ranges, offset, ranges, pieces)
    atomic_add(log + 8 * 1, 1)


@numba.njit(nogil=True)
def run_regions(regions, fork, threads, counters, hits, pieces, log, delays):
    """Run a job several times over."""
    for _ in range(regions):
        reset(counters, threads)
        run_team(fork, threads, body, (fork, threads, counters, hits, pieces, log, delays.ctypes.data, delays.size))


@dataclass
class Outcome:
    """What the threads of some regions did.

    Attributes:
        hits: (pieces,) how often each piece was drawn: 1001 times per region, once in the first phase.
        log: ENTERED, LEFT, then the times that each thread number came.
    """

    hits: np.ndarray
    log: np.ndarray

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the threads that came."""
        return np.flatnonzero(self.log[FIRST_NUMBER:]).tolist()


def run(fork: int, threads: int, pieces: int, delays=(0,), regions: int = 1) -> Outcome:
    """Run a job on up to so many threads, and return what they did."""
    hits, log = np.zeros(max(pieces, 1), np.int64), np.zeros(FIRST_NUMBER + MAX_THREADS, np.int64)
    counters = aligned(TEAM_BYTES)
    run_regions(
        regions,
        fork,
        threads,
        counters.ctypes.data,
        hits.ctypes.data,
        pieces,
        log.ctypes.data,
        np.array(delays, np.int64),
    )
    return Outcome(hits[:pieces], log)
