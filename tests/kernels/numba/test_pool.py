"""The thread pool: every piece is done once whatever the threads' pace, and nobody touches a job that is over."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pool_jobs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_jobs import ENTERED, LEFT

from bitnet_jit.kernels.numba.threads import fork as fork_module
from bitnet_jit.kernels.numba.threads.fork import Fork
from bitnet_jit.kernels.numba.threads.openmp import PythonTeam, libgomp_of_system, load_libgomp
from bitnet_jit.kernels.numba.threads.pool import Pool
from bitnet_jit.kernels.numba.threads.pool_memory import (
    BANNED_UNTIL,
    BORROWED_UNTIL,
    HELPER_WORDS,
    HELPERS,
    OWNER,
    PARKED,
    RESTED,
    STARTED,
    STATE,
)
from bitnet_jit.kernels.numba.threads.system_calls import system_calls_unsupported_reason

pytestmark = pytest.mark.skipif(system_calls_unsupported_reason() is not None, reason="there is no pool here")


@pytest.fixture(scope="module")
def pool():
    pool = Pool()
    yield pool
    pool.stop()


def words(pool):
    """Return the memory of a pool as int64."""
    return (ctypes.c_int64 * (HELPERS + 4 * HELPER_WORDS)).from_address(pool.address)


def assert_done_once(outcome, threads, regions=1):
    """Assert that each piece was done once in each region, and that all who came have gone."""
    assert (outcome.hits == 1001 * regions).all()
    assert regions <= outcome.log[ENTERED] == outcome.log[LEFT] <= threads * regions
    assert max(outcome.numbers) < threads
    assert outcome.log[pool_jobs.FIRST_NUMBER] == regions  # the caller comes to each


delays = st.lists(st.sampled_from((0, 0, 300, 5_000, 200_000, -1, -60_000)), min_size=1, max_size=5)


@settings(deadline=None)
@given(threads=st.integers(1, 4), pieces=st.integers(0, 40), delays=delays)
def test_each_piece_is_done_once_whatever_the_pace(pool, threads, pieces, delays):
    outcome = pool_jobs.run(pool.address, threads, pieces, delays, regions=3)
    assert_done_once(outcome, threads, regions=3)
    before = outcome.log.copy(), outcome.hits.copy()
    time.sleep(0.0003)
    assert np.array_equal(before[0], outcome.log)
    assert np.array_equal(before[1], outcome.hits)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_a_hundred_thousand_tiny_regions(pool, threads):
    assert_done_once(pool_jobs.run(pool.address, threads, 1, regions=100_000), threads, regions=100_000)


def test_helpers_come_with_their_own_numbers(pool):
    numbers = set()
    end = time.monotonic() + 30
    while numbers < {0, 1, 2} and time.monotonic() < end:
        numbers |= set(pool_jobs.run(pool.address, 3, 30, (20_000,), regions=5).numbers)
    assert numbers == {0, 1, 2}


def test_helpers_that_hold_pieces_are_waited_for(pool):
    joined, end = 0, time.monotonic() + 30
    while joined < 5 and time.monotonic() < end:
        outcome = pool_jobs.run(
            pool.address, 2, 4, (100_000, 3_000_000)
        )  # number 1 takes longer than its caller waits awake
        assert outcome.log[LEFT] == outcome.log[ENTERED]
        assert_done_once(outcome, 2)
        joined += outcome.log[ENTERED] == 2
    assert joined == 5


def test_a_helper_that_never_begins_is_not_waited_for():
    pool = Pool()
    pool_jobs.run(pool.address, 2, 1)
    state = HELPERS + STATE
    end = time.monotonic() + 30
    while words(pool)[state] != PARKED and time.monotonic() < end:
        time.sleep(0.001)
    words(pool)[state] = 99  # no caller wakes it from that
    outcome = pool_jobs.run(pool.address, 2, 5, regions=100)
    words(pool)[state] = PARKED
    assert_done_once(outcome, 1, regions=100)
    pool.stop()


def test_concurrent_callers_get_their_own_work_done(pool):
    outcomes = {}

    def call(caller):
        for turn in range(50):
            pieces = 1 + 7 * caller + turn % 3
            outcomes[caller, turn] = pieces, pool_jobs.run(pool.address, 4, pieces, (1_000, 0, 3_000), regions=20)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 200
    for pieces, outcome in outcomes.values():
        assert len(outcome.hits) == pieces
        assert_done_once(outcome, 4, regions=20)
    assert words(pool)[OWNER] == 0


def test_a_caller_that_finds_the_pool_in_use_works_alone(pool):
    words(pool)[OWNER] = 1
    try:
        assert pool_jobs.run(pool.address, 4, 9, regions=50).numbers == [0]
    finally:
        words(pool)[OWNER] = 0


def test_a_pool_that_is_stopped_or_gets_no_threads_leaves_callers_alone():
    pool = Pool()
    pool_jobs.run(pool.address, 3, 4, regions=10)
    pool.stop()
    assert pool_jobs.run(pool.address, 4, 9, regions=10).numbers == [0]
    alone = Pool(capacity=0)
    assert pool_jobs.run(alone.address, 4, 9, regions=10).numbers == [0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the test keeps two cores busy")
def test_helpers_rest_where_other_processes_want_the_cores():
    pool, cores = Pool(), os.sched_getaffinity(0)
    busy = sorted(cores)[:2]
    command = [sys.executable, "-c", "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"]
    os.sched_setaffinity(0, busy)
    processes = [subprocess.Popen([*command, str(core)]) for core in busy]
    try:
        end, rested = time.monotonic() + 30, False
        while not rested and time.monotonic() < end:
            assert_done_once(pool_jobs.run(pool.address, 2, 20, (1_000,), regions=50), 2, regions=50)
            rested = words(pool)[HELPERS + RESTED] != 0
        assert rested
    finally:
        os.sched_setaffinity(0, cores)
        for process in processes:
            process.kill()
            process.wait()
        pool.stop()


@pytest.fixture
def openmp():
    functions = load_libgomp(libgomp_of_system())
    if functions is None:
        pytest.skip("this system has no libgomp")
    return functions


def test_openmp_threads_are_borrowed_only_when_they_are_awake(openmp):
    pool = Pool((openmp.parallel, openmp.number))
    memory = words(pool)
    pool_jobs.run(pool.address, 2, 4)
    assert memory[BORROWED_UNTIL] == 0  # nothing had to rest
    end = time.monotonic() + 30
    while memory[HELPERS + STATE] != PARKED and time.monotonic() < end:
        time.sleep(0.001)
    memory[HELPERS + STATE], memory[HELPERS + RESTED] = 99, 1  # as if it rested
    outcome = pool_jobs.run(pool.address, 2, 9)
    assert memory[BORROWED_UNTIL] != 0
    assert_done_once(outcome, 2)
    assert outcome.log[ENTERED] == 2  # GOMP_parallel waits for both
    time.sleep(0.1)
    last = memory[BORROWED_UNTIL]
    assert pool_jobs.run(pool.address, 2, 9).numbers == [0]  # they sleep by now, or have run for too long to tell
    assert memory[BORROWED_UNTIL] == last
    memory[HELPERS + STATE] = PARKED
    pool.stop()


def test_nothing_is_borrowed_after_a_stall(openmp):
    banned = False
    for _ in range(20):  # on a busy machine the caller itself may be the late one
        pool = Pool((openmp.parallel, openmp.number), capacity=1)
        memory = words(pool)
        memory[HELPERS + RESTED], memory[STARTED], memory[HELPERS + STATE] = 1, 1, 99  # as if there were one that rests
        pool_jobs.run(pool.address, 2, 0, (0, 20_000_000))  # number 1 comes late, and its caller waits
        assert memory[BORROWED_UNTIL] > 0
        banned |= memory[BANNED_UNTIL] > memory[BORROWED_UNTIL]
        memory[STARTED] = 0
        pool.stop()
        if banned:
            break
    assert banned


@pytest.mark.parametrize("kind", ["openmp", "python"])
def test_other_sources_of_threads_do_the_same(monkeypatch, kind):
    monkeypatch.setattr(fork_module, "system_calls_unsupported_reason", lambda: "a test says so")
    monkeypatch.setattr(fork_module, "libgomp_of_torch", list)
    if kind == "python" or not libgomp_of_system():
        monkeypatch.setattr(fork_module, "libgomp_of_system", list)
    fork = Fork()
    assert ("Python threads" in fork.name) == (fork_module.libgomp_of_system is list)
    for threads in (1, 2, 4):
        outcome = pool_jobs.run(fork.address, threads, 17, (0, 2_000), regions=3)
        assert (outcome.hits == 3003).all()
        assert outcome.log[ENTERED] == outcome.log[LEFT]


def test_python_threads_are_named_as_such():
    assert PythonTeam().functions.name.startswith("Python threads")
