"""The search of a batch size, on drawn devices: it ends near the best size, and inside every limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.engine.tensors.batch_size import SEARCH_EVERY, BatchingConfig, SizeSearch
from bitnet_jit.errors import InvalidInput


class ToyDevice:
    """A device on which a call takes a fixed time, each row its own, and rows beyond a cache more; memory is finite."""

    def __init__(self, fixed=1e-3, per_row=1e-6, cache=2**30, slowdown=1.0, fits=2**30, used=0.0):
        self.fixed, self.per_row, self.cache, self.slowdown = fixed, per_row, cache, slowdown
        self.fits, self.used = fits, used

    def seconds(self, rows):
        return self.fixed + self.per_row * (min(rows, self.cache) + self.slowdown * max(0, rows - self.cache))

    def rate(self, rows):
        return rows / self.seconds(rows)

    def search(self, **options):
        return SizeSearch(BatchingConfig(**options), lambda: self.used)

    def run(self, search, batches=200):
        """Run batches of the size that is asked for; return the sizes that went through."""
        sizes = []
        for _ in range(batches):
            if search.size > self.fits:
                search.fail(search.size)
                continue
            sizes.append(search.size)
            search.record(search.size, self.seconds(search.size))
        return sizes


@given(st.integers(0, 6), st.integers(0, 20), st.floats(1.5, 10))
def test_the_size_grows_while_rows_get_faster(fixed, cache, slowdown):
    device = ToyDevice(fixed=10.0**-fixed, cache=2**cache, slowdown=slowdown)
    search = device.search(initial=1)
    sizes = device.run(search)
    assert search.settled
    best = max(device.rate(size) for size in sizes)
    assert device.rate(search.size) >= best / 1.03
    assert search.size == 1 or device.rate(search.size) >= 1.02 * device.rate(search.size // 2)


@given(st.integers(1, 5000), st.integers(1, 4096))
def test_a_size_that_does_not_fit_is_halved_and_not_tried_again_soon(fits, initial):
    device = ToyDevice(fits=fits)
    search = device.search(initial=initial)
    sizes = device.run(search)
    assert search.size <= fits
    assert max(sizes) <= fits
    assert 4 * search.size > fits or search.size == 2**16 or search.settled
    failed = search.out_of_memory
    device.run(search, SEARCH_EVERY // 2)
    assert search.out_of_memory == failed


def test_memory_that_is_free_again_is_used():
    device = ToyDevice(fits=10)
    search = device.search(initial=8)
    device.run(search)
    assert search.size == 8
    device.fits = 10**6
    device.run(search, 8 * SEARCH_EVERY)
    assert search.size > 100


def test_batches_shrink_above_the_memory_threshold_and_grow_again_below_it():
    device = ToyDevice(used=0.5)
    search = device.search(initial=64, min_rows=4, memory_threshold=0.8)
    device.run(search)
    assert search.size > 1000
    device.used = 0.9
    device.run(search)
    assert search.size == 4
    device.used = 0.5
    device.run(search, 10 * SEARCH_EVERY)
    assert search.size > 1000


@given(st.floats(1.1, 50.0))
def test_no_size_stays_that_takes_longer_than_allowed(latency):
    device = ToyDevice(fixed=1e-3, per_row=1e-5)
    search = device.search(initial=256, max_latency_ms=latency)
    device.run(search)
    assert search.settled
    assert 1e3 * device.seconds(search.size) <= latency
    assert 1e3 * device.seconds(4 * search.size) > latency or search.size == 65536


def test_one_disturbed_batch_changes_nothing():
    device = ToyDevice()
    search = device.search(initial=64)
    quiet = device.search(initial=64)
    device.run(quiet)
    for number in range(200):
        search.record(search.size, device.seconds(search.size) * (10 if number % 3 == 1 else 1))
    assert search.size == quiet.size


def test_batches_that_are_half_empty_tell_nothing():
    search = ToyDevice().search(initial=64)
    for _ in range(50):
        search.record(10, 1e-3)
    assert (search.size, search.measured) == (64, {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial": 0}, "initial"),
        ({"initial": 64, "max_rows": 32}, r"initial: expected 1 to 32 \(min_rows to max_rows\), got 64"),
        ({"min_rows": 10, "max_rows": 9}, "max_rows"),
        ({"min_rows": True}, "min_rows"),
        ({"max_latency_ms": 0}, "max_latency_ms"),
        ({"max_latency_ms": float("nan")}, "max_latency_ms"),
        ({"memory_threshold": 1.5}, "memory_threshold"),
        ({"memory_threshold": None}, "memory_threshold"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(InvalidInput, match=words):
        BatchingConfig(**options)
