"""The memory of the thread pool: int64 words at fixed places, in cache lines of their own where threads meet.

    word of the job   generation | helpers that may join (0: closed) | helpers that have joined
    left              helpers that have left the job, and a flag: the caller sleeps until they have

One word tells all about a job, so that a helper joins it by one compare-and-swap, and only while it is open.
"""

from numba import types

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer

LINE = 16  # words: two cache lines, since CPUs fetch them in pairs
# what callers read: the two functions of a `Fork`, then the thread-local number's key, the helper's code, threads
RUN, NUMBER, KEY, HELPER, STARTED, CAPACITY, STOPPED, RUNNING = range(8)
# GOMP_parallel, omp_get_thread_num, `openmp_part`, a caller's key: all 0 where there is no OpenMP
OPENMP, OPENMP_NUMBER, OPENMP_PART, OPENMP_KEY = range(8, 12)
OWNER = LINE  # 1 while a caller uses the pool; the words behind are the owner's
SAMPLED, CLOCK, RAN, AWAKE_THREADS, PART_END, BORROWED_SINCE, BORROWED_UNTIL, BAN, BANNED_UNTIL, SEEN_AWAKE = (
    OWNER + place for place in range(1, 11)
)
JOB, FUNCTION, DATA = 2 * LINE, 2 * LINE + 1, 2 * LINE + 2
LEFT, LATE = 3 * LINE, 3 * LINE + 1  # LATE: the generation of a job whose caller fell asleep
HELPERS = 4 * LINE  # the first helper's words
HELPER_WORDS = 2 * LINE
STATE, HANDLE, POOL, INDEX = 0, 1, LINE, LINE + 1  # of a helper; the second pair of lines is its own
GENERATION, YIELDED, SEEN, REST, RESTED = (LINE + 2 + place for place in range(5))
AWAKE, PARKED, RESTING = range(3)

JOINED_BITS, GENERATION_AT = 13, 26
JOINED_MASK = (1 << JOINED_BITS) - 1
CLOSED_MASK = ~(JOINED_MASK << JOINED_BITS)
ASLEEP = 1 << 30  # the flag in LEFT
MAX_HELPERS = JOINED_MASK - 1


def pool_words(capacity: int) -> int:
    """Return how many words a pool of that many helpers has."""
    return HELPERS + capacity * HELPER_WORDS


@jit
def word(base, place):
    """Return the address of a word."""
    return base + 8 * place


@jit
def get(base, place):
    """Read a word that no other thread writes now."""
    return pointer(base, types.int64)[place]


@jit
def put(base, place, value):
    """Write a word that no other thread reads or writes now."""
    pointer(base, types.int64)[place] = value


@jit
def helper_at(pool, index):
    """Return the address of a helper's words; indices begin at 1, the caller is 0."""
    return word(pool, HELPERS + (index - 1) * HELPER_WORDS)


@jit
def open_word(generation, helpers):
    """Return the word of a job that just opened."""
    return (generation << GENERATION_AT) | (helpers << JOINED_BITS)


@jit
def generation_of(job):
    """Return the generation of a job's word."""
    return job >> GENERATION_AT


@jit
def helpers_of(job):
    """Return how many helpers may join, by a job's word: 1..n; 0 where it is closed."""
    return (job >> JOINED_BITS) & JOINED_MASK


@jit
def admits(job, index):
    """Return whether a job's word lets that helper join."""
    return helpers_of(job) >= index
