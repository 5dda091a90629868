"""`EngineMemory`: rows joined in a pool have the same bits, no tensor changes later, and the pool is really used."""

import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import K, Recorded, inputs, packed
from torch import nn

from bitnet_jit.engine import InferenceEngine
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, MIN_POOLED, EngineMemory
from bitnet_jit.engine.memory.placement import AllocationStrategy
from bitnet_jit.engine.memory.pool import BufferPool
from bitnet_jit.engine.memory.trace import TraceEvent, record_serving, replay
from bitnet_jit.engine.tensors.batch_size import BatchingConfig
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.engine.tensors.infer import infer_batch, infer_each
from bitnet_jit.engine.tensors.stream import InferenceStream
from bitnet_jit.engine.tensors.streaming import StreamingConfig
from bitnet_jit.engine.tensors.worker_pool import ParallelInferenceProcessor
from bitnet_jit.errors import InvalidInput

LAYER = packed()
LEADING = st.one_of(st.just(()), st.tuples(st.integers(0, 90)), st.tuples(st.integers(0, 5), st.integers(0, 5)))
MEMORY = EngineMemory(min_pooled_bytes=0)
LIMITS = st.sampled_from([0, 5000, 2**20])


def poison(memory):
    """Fill the free memory of a pool with NaN, as far as one buffer has it."""
    size = memory.statistics().allocated_bytes // 4
    if size:
        memory.pool.allocate(4 * size).tensor((size,), torch.float32).fill_(float("nan"))


@given(st.lists(LEADING, max_size=12), LIMITS, st.booleans())
def test_rows_joined_in_a_pool_have_the_same_bits(leadings, limit, by_processor):
    memory = EngineMemory(limit, min_pooled_bytes=0)
    xs = inputs(leadings)
    processor = BatchProcessor(LAYER, BatchingConfig(initial=33), memory=memory)
    for _ in range(2):
        outputs = processor.run(xs) if by_processor else infer_batch(LAYER, xs, memory=memory)
        poison(memory)
        assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    account = memory.statistics()
    assert account.allocated_bytes <= limit
    assert account.active_bytes == 0


def test_batches_come_out_of_the_pool():
    memory = EngineMemory(min_pooled_bytes=0)
    for _ in range(10):
        infer_batch(LAYER, inputs([(1,), (3,), (7,)]), memory=memory)
        infer_each(LAYER, inputs([(1,), (3,), (7,)]), memory=memory)
    account = memory.statistics()
    assert (account.allocations, account.hits) == (20, 19)
    assert account.peak_active_bytes == 11 * K * 4


def test_large_batches_do_so_without_being_told():
    before = DEFAULT_MEMORY.statistics().allocations
    rows = MIN_POOLED // (4 * 4096)
    processor = BatchProcessor(nn.Linear(4096, 1), BatchingConfig(initial=4 * rows))
    xs = [torch.ones(rows // 2, 4096) for _ in range(2)]
    processor.run(xs)
    assert DEFAULT_MEMORY.statistics().allocations == before + 1
    processor.run([xs[0], xs[1][1:]])
    assert DEFAULT_MEMORY.statistics().allocations == before + 1
    DEFAULT_MEMORY.trim()


def moved(memory):
    """Return the list to which a memory adds the rows that it prepares."""
    seen, prepare = [], memory.prepare
    memory.prepare = lambda parts, *rest: (seen.append(sum(map(len, parts))), prepare(parts, *rest))[1]
    return seen


def test_processors_and_streams_take_the_memory_that_they_are_given():
    untouched = moved(DEFAULT_MEMORY)
    try:
        memory = EngineMemory(strategy=AllocationStrategy.PREFER_CPU, min_pooled_bytes=0)
        seen = moved(memory)
        with ParallelInferenceProcessor(LAYER, workers=2, memory=memory) as processor:
            xs = inputs([(3,), (5,)])
            assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, processor.map(xs), strict=True))
        assert sorted(seen) == [3, 5]
        stream = InferenceStream(LAYER, StreamingConfig(buffer_size=4), memory=memory)
        ys = [item.result() for item in stream.run(xs)]
        assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, ys, strict=True))
        assert sum(seen) == 16
        assert not untouched
    finally:
        del DEFAULT_MEMORY.prepare


def test_an_engine_measures_with_its_own_memory():
    untouched = moved(DEFAULT_MEMORY)
    try:
        with InferenceEngine() as engine:
            engine.add_model("layer", LAYER)
            seen = moved(engine.memory)
            engine.benchmark("layer", torch.ones(1, K), iterations=1)
            assert sum(seen) >= 256
            assert not untouched
    finally:
        del DEFAULT_MEMORY.prepare


class Keeps(nn.Module):
    """A module that keeps its inputs, and hands them on as they are, or a part of them."""

    def __init__(self, part):
        super().__init__()
        self.part, self.kept = part, []

    def forward(self, x):
        self.kept.append(x)
        return x[:, self.part]


@given(st.lists(st.lists(LEADING, min_size=2, max_size=6), min_size=2, max_size=5), st.booleans())
def test_what_a_module_keeps_or_hands_on_never_changes(lists, whole):
    module, memory = Keeps(slice(None) if whole else slice(0, 3)), EngineMemory(min_pooled_bytes=0)
    wanted, results = [], []
    for seed, leadings in enumerate(lists):
        xs = inputs(leadings, seed=seed)
        wanted += [x[..., module.part].clone() for x in xs]
        results += infer_batch(module, xs, memory=memory)
        poison(memory)
    assert all(torch.equal(y, x) for x, y in zip(wanted, results, strict=True))
    assert not any(bool(x.isnan().any()) for x in module.kept)
    kept = memory.statistics().active_bytes
    module.kept.clear()
    results.clear()
    y = None  # noqa: F841
    assert memory.statistics().active_bytes == 0 or kept == 0


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.complex64]
)
def test_every_dtype_is_joined(dtype):
    xs = [torch.ones(rows, 5).to(dtype) for rows in (1, 3, 17)]
    outputs = infer_batch(nn.Identity(), xs, memory=MEMORY)
    assert all(torch.equal(y, x) and y.dtype is dtype for x, y in zip(xs, outputs, strict=True))


def test_parameters_and_gradients_are_no_obstacle():
    xs = [nn.Parameter(torch.ones(2, K)), torch.ones(3, K, requires_grad=True)]
    assert [len(y) for y in infer_batch(LAYER, xs, memory=MEMORY)] == [2, 3]
    assert [len(y) for y in infer_batch(LAYER, xs[::-1], memory=MEMORY)] == [3, 2]


def test_a_full_pool_is_told_once_and_counted(caplog):
    memory = EngineMemory(limit_bytes=100, min_pooled_bytes=0)
    with caplog.at_level("INFO"):
        for _ in range(3):
            infer_batch(LAYER, inputs([(2,), (3,)]), memory=memory)
    assert memory.statistics().refused == 3
    assert [record.message for record in caplog.records if "no room" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_a_module_that_fails_leaves_nothing_behind():
    memory = EngineMemory(min_pooled_bytes=0)
    with pytest.raises(RuntimeError, match="begins with"):
        infer_batch(Recorded(refuse=7.0), [torch.full((2, K), 7.0), torch.ones(1, K)], memory=memory)
    assert memory.statistics().active_bytes == 0


def test_memory_of_a_batch_that_did_not_fit_is_given_back():
    memory = EngineMemory(min_pooled_bytes=0)
    module = Recorded(fits=8)
    processor = BatchProcessor(module, BatchingConfig(initial=64), used=lambda: 0.0, memory=memory)
    xs = inputs([(4,)] * 16)
    outputs = processor.run(xs)
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    account = memory.statistics()
    assert account.peak_bytes >= 64 * K * 4
    assert account.allocated_bytes < 16 * K * 4
    assert account.evicted >= 3


def test_threads_share_a_memory():
    memory, failures = EngineMemory(2**18, min_pooled_bytes=0), []

    def work(seed):
        for step in range(30):
            xs = inputs([(1 + step % 7,), (seed,), (3,)], seed=seed * 100 + step)
            ys = infer_batch(nn.Identity(), xs, memory=memory)
            if not all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True)):
                failures.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert memory.statistics().active_bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_begins_with_an_empty_pool():
    pool = BufferPool()
    x = pool.allocate(400).tensor((100,), torch.float32).fill_(2)
    with pool._lock:  # another thread is in the middle of a change
        child = os.fork()
        if child == 0:
            fresh = pool.statistics().allocations == 0 and pool.allocate(8).num_bytes == 8
            os._exit(0 if fresh and float(x[0]) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.statistics().allocations == 1


@pytest.fixture(scope="module")
def trace():
    return record_serving(requests=300, threads=4)


def test_a_recorded_run_meets_the_targets(trace):
    sizes = [event.num_bytes for event in trace if event.num_bytes is not None]
    assert len(sizes) == 300
    assert len(set(sizes)) > 200
    assert max(sizes) > 20 * min(sizes)
    figures = min((replay(trace, BufferPool()) for _ in range(3)), key=lambda one: one.p99_ms)
    assert figures.statistics.hit_rate > 0.8
    assert figures.statistics.fragmentation < 0.2
    assert figures.p99_ms < 1
    assert figures.meets_targets()
    assert figures.statistics.active_bytes == 0
    assert f"{figures.statistics.hit_rate:.1%}" in figures.display()


def test_a_trace_gives_back_all_that_it_took(trace):
    numbers = [event.number for event in trace]
    assert sorted(numbers) == sorted(2 * list(range(1, 301)))
    live, most = {}, 0
    for event in trace:
        if event.num_bytes is None:
            del live[event.number]
        else:
            live[event.number] = event.num_bytes
            most = max(most, sum(live.values()))
    assert replay(trace, BufferPool()).statistics.peak_active_bytes == most


def test_a_run_that_misses_is_told_so():
    trace = [event for size in range(1, 20) for event in (TraceEvent(size, 10_000 * size), TraceEvent(size, None))]
    account = replay(trace, BufferPool()).statistics
    assert account.hit_rate < 0.2  # each is larger than all before
    assert not replay(trace, BufferPool()).meets_targets()
    scattered = [TraceEvent(number, 1) for number in range(40)]
    assert replay(scattered, BufferPool()).statistics.fragmentation > 0.9  # a byte in each 64
    assert BufferPool().statistics().hit_rate == 1
    assert BufferPool().statistics().fragmentation == 0


def test_bad_arguments_are_refused():
    with pytest.raises(InvalidInput, match="strategy: expected one of AllocationStrategy.PREFER_CPU.*'gpu'"):
        EngineMemory(strategy="gpu")
    with pytest.raises(InvalidInput, match="limit_bytes"):
        EngineMemory(-1)
    with pytest.raises(InvalidInput, match="min_pooled_bytes"):
        EngineMemory(min_pooled_bytes=1.5)
    with pytest.raises(InvalidInput, match="requests"):
        record_serving(0)
