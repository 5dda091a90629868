"""`BufferPool`: no two live buffers overlap, sums agree, the limit is kept, whoever allocates and releases."""

import gc
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from bitnet_jit.engine.memory.pool import BufferPool
from bitnet_jit.engine.memory.region import HOST, PAGE, PINNED, Block, HostSource
from bitnet_jit.engine.memory.size_classes import ALIGN, size_class
from bitnet_jit.engine.memory.spans import FreeSpans
from bitnet_jit.engine.tensors.memory_used import resident_bytes
from bitnet_jit.errors import InvalidInput, OutOfMemory

SIZES = st.one_of(st.sampled_from([0, 1, 3, 17, 63, 64, 65, 4096]), st.integers(0, 200_000))


class Scarce(HostSource):
    """A source that refuses when it is told to."""

    def __init__(self):
        self.is_empty = False

    def allocate(self, num_bytes):
        if self.is_empty:
            raise torch.OutOfMemoryError("injected")
        memory = torch.full((num_bytes,), 0xEE, dtype=torch.uint8)

        def discard(offset, size):
            assert offset % PAGE == size % PAGE == 0
            memory[offset : offset + size] = 0xDD

        return Block(memory, discard)


class Event:
    """The end of a copy, which comes when it is told to, or is waited for."""

    def __init__(self):
        self.is_over = False

    def query(self):
        return self.is_over

    def synchronize(self):
        self.is_over = True


@given(SIZES)
def test_classes_are_aligned_and_hardly_larger(num_bytes):
    size = size_class(num_bytes)
    assert size % ALIGN == 0
    assert num_bytes <= size
    assert size <= max(ALIGN, num_bytes * 9 / 8 + ALIGN)
    assert size_class(size) == size


@given(st.lists(st.integers(1, 300)), st.randoms(use_true_random=False))
def test_spans_never_overlap_and_join_again(sizes, draw):
    spans, taken = FreeSpans(1000), []
    for size in sizes:
        fits = spans.best(size)
        offset = spans.take(size)
        assert (fits is None) == (offset is None)
        if offset is None:
            spans.give(*taken.pop(draw.randrange(len(taken))))
        else:
            taken.append((offset, size))
        covered = np.zeros(1000, int)
        for start, length in taken:
            covered[start : start + length] += 1
        assert covered.max(initial=0) <= 1
        assert spans.free == 1000 - covered.sum()
    for offset, size in taken:
        spans.give(offset, size)
    assert spans.best(1000) == 1000


class PoolMachine(RuleBasedStateMachine):
    """Draws histories of a pool. Each buffer is filled with a number of its own, which it must still hold later."""

    LIMIT = 400_000
    buffers = Bundle("buffers")

    def __init__(self):
        super().__init__()
        self.pool, self.source = BufferPool(self.LIMIT), Scarce()
        self.live = {}  # number -> (tensor, bytes, event)
        self.count = self.refused = self.most = 0
        self.events = []

    @rule(target=buffers, num_bytes=SIZES, in_thread=st.booleans())
    def allocate(self, num_bytes, in_thread):
        before = self.pool.statistics()
        try:
            buffer = run(lambda: self.pool.allocate(num_bytes, self.source), in_thread)
        except OutOfMemory as error:
            self.refused += 1
            reason = str(error)
            assert "injected" in reason or before.allocated_bytes + size_class(num_bytes) > self.LIMIT  # noqa: PT017
            return None
        tensor = buffer.tensor((num_bytes,), torch.uint8)
        self.count += 1
        number = self.count
        tensor.fill_(number % 251)
        self.live[number] = (tensor, num_bytes)
        self.most = max(self.most, sum(size for _, size in self.live.values()))
        return number, buffer

    @rule(item=buffers)
    def use_again(self, item):
        """Take a second tensor over a buffer; its bytes are the same ones."""
        if item is not None and item[0] in self.live:
            view = item[1].tensor((self.live[item[0]][1],), torch.uint8)
            assert torch.equal(view, self.live[item[0]][0])

    @rule(item=consumes(buffers), in_thread=st.booleans(), copied=st.booleans())
    def release(self, item, in_thread, copied):
        if item is None:
            return
        number, buffer = item
        if copied:
            self.events.append(Event())
            buffer.hold_until(self.events[-1])
        run(buffer.release, in_thread)
        with pytest.raises(InvalidInput, match="released before"):
            buffer.release()
        with pytest.raises(InvalidInput, match="released before"):
            buffer.tensor((0,), torch.uint8)
        del self.live[number]

    @rule(keep=st.integers(0, 500_000))
    def trim(self, keep):
        before = self.pool.statistics().allocated_bytes
        given_back = self.pool.trim(keep)
        after = self.pool.statistics().allocated_bytes
        assert before - after == given_back
        if not self.live and all(event.is_over for event in self.events):
            assert after <= keep

    @rule(is_empty=st.booleans())
    def empty_the_source(self, is_empty):
        self.source.is_empty = is_empty

    @rule()
    def end_a_copy(self):
        for event in self.events[:1]:
            event.is_over = True
        self.events = [event for event in self.events if not event.is_over]

    @invariant()
    def nothing_overlaps(self):
        spans = sorted((tensor.data_ptr(), size) for tensor, size in self.live.values() if size)
        for (start, size), (after, _) in zip(spans, spans[1:], strict=False):
            assert start + size <= after
        for number, (tensor, _) in self.live.items():
            assert tensor.data_ptr() % ALIGN == 0 or not tensor.numel()
            assert bool((tensor == number % 251).all())

    @invariant()
    def sums_agree(self):
        account = self.pool.statistics()
        assert account.active_bytes == sum(size for _, size in self.live.values())
        assert account.peak_active_bytes == self.most
        assert account.active_bytes <= account.allocated_bytes <= account.peak_bytes <= self.LIMIT
        assert account.allocations == self.count + self.refused
        assert account.refused == self.refused
        assert account.regions + account.evicted + account.hits == self.count
        assert 0 <= account.fragmentation <= 1


def run(call, in_thread):
    """Return what a call does, by this thread or another one."""
    if not in_thread:
        return call()
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result()


TestPool = PoolMachine.TestCase


def test_threads_at_a_time_never_share_bytes():
    pool = BufferPool(2**22)

    def work(seed):
        draw, held = random.Random(seed), []
        for step in range(400):
            buffer = pool.allocate(draw.randrange(1, 30_000))
            tensor = buffer.tensor((buffer.num_bytes,), torch.uint8).fill_((seed + step) % 251)
            buffer.release()
            held.append((tensor, (seed + step) % 251))
            if len(held) > 5:
                tensor, value = held.pop(draw.randrange(len(held)))
                assert bool((tensor == value).all())
        return True

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(6)))
    gc.collect()
    account = pool.statistics()
    assert account.active_bytes == 0
    assert account.allocations == 2400
    assert account.hit_rate > 0.8
    assert pool.trim() == account.allocated_bytes


def test_a_view_keeps_its_bytes_when_the_buffer_is_gone():
    pool = BufferPool()
    x = pool.allocate(4000).tensor((1000,), torch.float32).fill_(3)
    part = x[10:20].view(2, 5)
    del x
    other = pool.allocate(4000).tensor((1000,), torch.float32).fill_(4)
    assert bool((part == 3).all())
    address = part.data_ptr() - 40
    del part
    assert pool.allocate(4000).tensor((1000,), torch.float32).data_ptr() == address
    assert bool((other == 4).all())


def test_bytes_are_not_used_again_before_the_copy_has_ended():
    pool, event = BufferPool(), Event()
    buffer = pool.allocate(1000)
    address = buffer.tensor((1000,), torch.uint8).data_ptr()
    buffer.hold_until(event)
    buffer.release()
    second = pool.allocate(1000)
    assert second.tensor((1000,), torch.uint8).data_ptr() != address
    event.is_over = True
    third = pool.allocate(1000)
    assert third.tensor((1000,), torch.uint8).data_ptr() == address
    full = BufferPool(limit_bytes=1024)
    late = Event()
    buffer = full.allocate(1000)
    buffer.hold_until(late)
    buffer.release()
    full.allocate(1000)  # the limit leaves no other way than to wait
    assert late.is_over


def test_regions_without_references_go_the_least_recently_used_first():
    pool = BufferPool(limit_bytes=10 * 1024)
    first, second, third = (pool.allocate(3 * 1024) for _ in range(3))
    addresses = [buffer.tensor((1,), torch.uint8).data_ptr() for buffer in (first, second, third)]
    second.release()
    pool.statistics()
    first.release()
    pool.statistics()
    large = pool.allocate(4 * 1024)  # takes the place of the second, which was given back first
    assert pool.statistics().evicted == 1
    again = pool.allocate(3 * 1024)
    assert again.tensor((1,), torch.uint8).data_ptr() == addresses[0]
    assert pool.statistics().allocated_bytes == 10 * 1024
    large.release()
    third.release()
    pool.allocate(6 * 1024)
    assert pool.statistics().allocated_bytes == 9 * 1024
    assert again.tensor((1,), torch.uint8).data_ptr() == addresses[0]


def test_free_pages_beside_a_buffer_are_given_back():
    pool = BufferPool(limit_bytes=2**25)
    whole = pool.allocate(2**24)
    whole.tensor((2**24,), torch.uint8).fill_(1)
    whole.release()
    small = pool.allocate(2**20)  # lies where `whole` did
    x = small.tensor((2**20,), torch.uint8).fill_(7)
    before = resident_bytes()
    large = pool.allocate(2**24 + 2**20)
    account = pool.statistics()
    assert account.active_bytes == 2**24 + 2**21
    assert account.allocated_bytes <= account.active_bytes * 9 / 8
    assert account.fragmentation <= 1 / 9
    assert before - resident_bytes() > 2**23
    assert bool((x == 7).all())
    del x
    small.release()
    assert pool.statistics().allocated_bytes == size_class(2**24 + 2**20)  # what has holes is not used again
    large.release()


def test_sources_are_kept_apart():
    pool, other = BufferPool(), Scarce()
    pool.allocate(1000).release()
    pool.allocate(1000, other).release()
    assert pool.statistics().hits == 0
    pool.allocate(1000, HOST).release()
    pool.allocate(1000, other).release()
    assert pool.statistics().hits == 2
    assert PINNED.size(1000) == 1024
    assert PINNED.size(1024) == 1024


def test_bad_arguments_are_refused():
    pool = BufferPool(1000)
    for call, words in (
        (lambda: BufferPool(-1), "limit_bytes: .* got -1"),
        (lambda: BufferPool(2.5), "limit_bytes"),
        (lambda: pool.allocate(-1), "num_bytes: .* got -1"),
        (lambda: pool.allocate(float("nan")), "num_bytes: .* got nan"),
        (lambda: pool.allocate(10).tensor((3,), torch.float32), r"shape: \(3,\) of torch.float32 needs 12 bytes.* 10"),
    ):
        with pytest.raises(InvalidInput, match=words):
            call()
    with pytest.raises(OutOfMemory, match="no room for 1.0 KiB"):
        pool.allocate(1001)
    with pytest.raises(OutOfMemory, match="no room"):
        pool.allocate(2**40)
    assert pool.statistics().refused == 2


def test_large_regions_are_aligned_and_given_back():
    pool = BufferPool(2**26)
    x = pool.allocate(2**23).tensor((2**21,), torch.float32)
    assert x.data_ptr() % ALIGN == 0
    x.fill_(1)
    assert pool.trim() == 0
    del x
    assert pool.trim() == 2**23
