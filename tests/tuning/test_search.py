"""The search for the fastest: right on a machine with noise, silent on one that is busy, never long on the slow."""

import hashlib
import random
import threading
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.devices.clock import in_turns
from bitnet_jit.tuning.search import ATTEMPTS, CLEAR, EFFORTS, FAR_BEHIND, GAIN, search


class Machine:
    """Contenders whose true times are known, measured with noise, while a neighbour may run."""

    def __init__(self, true, noise=0.0, neighbour=lambda measurement: 1.0, seed=0):
        self.true, self.noise, self.neighbour = true, noise, neighbour
        self.random, self.asked, self.spent = random.Random(seed), [], 0.0

    def __call__(self, numbers, seconds):
        self.asked.append(tuple(numbers))
        self.spent += seconds * len(numbers)
        load = self.neighbour(len(self.asked))
        return [[self.true[n] * load * (1 + abs(self.random.gauss(0, self.noise))) for _ in range(15)] for n in numbers]


@pytest.mark.parametrize("effort", EFFORTS)
@given(true=st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=30))
def test_without_noise_it_is_the_fastest_or_the_default_that_is_as_fast(effort, true):
    result = search(len(true), Machine(true), EFFORTS[effort])
    assert result.microseconds == true[result.best]
    assert result.default_microseconds == true[0]
    assert true[result.best] <= min(true) * GAIN
    assert result.best == 0 or true[0] >= GAIN * true[result.best]
    timed = [time for number, time in enumerate(true) if number == 0 or time <= FAR_BEHIND * min(true)]
    timed.remove(true[result.best])
    assert result.runner_up_microseconds == (min(timed) if timed else None)
    assert (result.runner_up is None) == (not timed)


@pytest.mark.parametrize("seed", range(50))
def test_with_noise_it_is_within_a_twentieth_of_the_fastest(seed):
    true = [random.Random(seed).uniform(5, 10) for _ in range(20)]
    result = search(20, Machine(true, noise=0.05, seed=seed), EFFORTS["full"])
    assert result is not None
    assert true[result.best] <= CLEAR * min(true)


def test_two_searches_agree_on_what_is_clearly_apart():
    true = [10.0, 8.0, 7.0, 9.0]
    chosen = Counter(search(4, Machine(true, noise=0.04, seed=seed), EFFORTS["quick"]).best for seed in range(100))
    assert chosen == {2: 100}


def test_what_gains_nothing_is_not_chosen():
    assert search(2, Machine([10.0, 9.9]), EFFORTS["full"]).best == 0
    assert search(2, Machine([10.0, 9.5]), EFFORTS["full"]).best == 1


@pytest.mark.parametrize("busy", [3, 4, 5])
def test_a_neighbour_that_comes_or_goes_at_the_end_is_waited_for(busy):
    machine = Machine([10.0, 8.0], neighbour=lambda measurement: 2.0 if measurement == busy else 1.0)
    result = search(2, machine, EFFORTS["quick"])
    assert (result.best, result.microseconds, result.default_microseconds) == (1, 8.0, 10.0)


def test_a_neighbour_that_comes_and_goes_all_the_time_leaves_nothing_found():
    machine = Machine([10.0, 8.0], neighbour=lambda measurement: 1.0 + measurement % 2)
    assert search(2, machine, EFFORTS["quick"]) is None
    assert len(machine.asked) == 3 + ATTEMPTS


@pytest.mark.parametrize("busy", [1, 2])
def test_a_neighbour_during_an_earlier_measurement_slows_all_alike(busy):
    machine = Machine([10.0, 8.0], neighbour=lambda measurement: 2.0 if measurement == busy else 1.0)
    assert search(2, machine, EFFORTS["quick"]).best == 1


def test_winners_that_are_clearly_apart_and_change_leave_nothing_found():
    turns = iter([[10.0, 9.0], [10.0, 9.0], *[[10.0, 9.3], [9.2, 10.0]] * 3])
    assert search(2, lambda numbers, seconds: [[time] for time in next(turns)], EFFORTS["quick"]) is None


def test_the_slow_are_timed_once_and_few_to_the_end():
    machine = Machine([4.0, 100.0, 3.0, 3.5, 3.2, 50.0])
    search(6, machine, EFFORTS["quick"])
    assert machine.asked[0] == (0, 1, 2, 3, 4, 5)
    assert set(machine.asked[1]) == {0, 2, 3, 4}
    assert machine.asked[2] == machine.asked[3] == (0, 2, 4)


def test_quick_takes_a_tenth_of_the_time():
    spent = []
    for effort in ("quick", "full"):
        machine = Machine([float(n + 5) for n in range(40)])
        search(40, machine, EFFORTS[effort])
        spent.append(machine.spent)
    assert spent[0] <= spent[1] / 5


def test_one_contender_alone_is_the_default():
    result = search(1, Machine([5.0]), EFFORTS["quick"])
    assert (result.best, result.runner_up, result.runner_up_microseconds) == (0, None, None)


def busy(stop, seed):
    """A neighbour that works now and then."""
    rng, buffer = random.Random(seed), bytes(1 << 20)
    while not stop.is_set():
        for _ in range(rng.randrange(1, 20)):
            hashlib.sha256(buffer)  # lets other threads run
        stop.wait(rng.uniform(0, 0.01))


def test_beside_threads_that_come_and_go_nothing_wrong_is_found():
    buffers = [bytes(60_000), bytes(40_000)]  # the default takes half as long again
    runs = [partial(hashlib.sha256, buffer) for buffer in buffers]
    stop = threading.Event()
    neighbours = [threading.Thread(target=busy, args=(stop, seed), daemon=True) for seed in range(2)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        result = [search(2, lambda n, s: in_turns([runs[i] for i in n], s), EFFORTS["quick"]) for _ in range(20)]
    finally:
        stop.set()
        for neighbour in neighbours:
            neighbour.join()
    assert {one.best for one in result if one is not None} <= {1}
    alone = search(2, lambda n, s: in_turns([runs[i] for i in n], s), EFFORTS["full"])
    assert alone is None or alone.best == 1
