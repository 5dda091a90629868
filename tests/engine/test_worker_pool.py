"""`ParallelInferenceProcessor`: every accepted task ends once, errors stay with their tasks, queues are bounded."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_modules import K, Recorded, inputs, packed
from torch import nn

from bitnet_jit.engine.tensors.worker_pool import ParallelInferenceProcessor
from bitnet_jit.errors import EngineClosed, InvalidInput, OutOfMemory, QueueFull, RequestTimeout

LAYER = packed()
X = torch.ones(2, K)


class Gate(nn.Module):
    """A module that waits until it is opened."""

    def __init__(self):
        super().__init__()
        self.opened, self.entered, self.inner = threading.Event(), threading.Semaphore(0), packed()
        self.eval()

    def forward(self, x):
        self.entered.release()
        assert self.opened.wait(20)
        return self.inner(x)


@pytest.fixture
def gate():
    module = Gate()
    yield module
    module.opened.set()  # or the threads of a failed test would wait


@given(
    st.lists(st.sampled_from(["good", "bad", "short memory", "cancelled"]), max_size=40),
    st.integers(1, 4),
    st.integers(1, 8),
)
@settings(max_examples=15)
def test_every_task_ends_once_with_its_own_outcome(kinds, workers, capacity):
    module = Recorded(refuse=7.0, fits=4)
    sizes = {"good": 3, "bad": 1, "short memory": 5, "cancelled": 2}
    xs = [inputs([(sizes[kind],)], seed=number)[0] for number, kind in enumerate(kinds)]
    for kind, x in zip(kinds, xs, strict=True):
        x[:, 0] = 7.0 if kind == "bad" else 1.0
    with ParallelInferenceProcessor(module, workers, capacity=capacity) as processor:
        futures = [processor.submit(x) for x in xs]
        cancelled = [kind == "cancelled" and future.cancel() for kind, future in zip(kinds, futures, strict=True)]
    for kind, x, future, gone in zip(kinds, xs, futures, cancelled, strict=True):
        assert future.done()
        if kind == "bad":
            with pytest.raises(RuntimeError, match="begins with"):
                future.result()
        elif kind == "short memory":
            assert isinstance(future.exception(), OutOfMemory)
        elif gone:
            with pytest.raises(CancelledError):
                future.result()
        else:
            assert torch.equal(future.result(), LAYER(x))
    stats = processor.stats()
    assert (stats.accepted, stats.waiting, stats.running) == (len(kinds), 0, 0)
    assert stats.cancelled == sum(cancelled)
    assert stats.failed == kinds.count("bad") + kinds.count("short memory")
    assert len(stats.workers) == workers


def test_workers_run_side_by_side(gate):
    with ParallelInferenceProcessor(gate, 3) as processor:
        futures = [processor.submit(X) for _ in range(3)]
        for _ in range(3):
            assert gate.entered.acquire(timeout=10)  # all three are inside at once
        assert processor.stats().running == 3
        gate.opened.set()
        assert all(torch.equal(future.result(10), LAYER(X)) for future in futures)


def test_a_full_queue_makes_threads_and_loops_wait(gate):
    processor = ParallelInferenceProcessor(gate, 1, capacity=2)
    futures = [processor.submit(X)]
    assert gate.entered.acquire(timeout=10)
    futures += [processor.submit(X), processor.submit(X)]
    assert processor.stats().waiting == 2
    begin = time.monotonic()
    with pytest.raises(QueueFull):
        processor.submit(X, wait_s=0.05)
    assert 0.04 < time.monotonic() - begin < 5
    with pytest.raises(QueueFull):
        processor.submit(X, wait_s=0)

    async def awaits():
        task = asyncio.create_task(processor.infer_async(X))
        await asyncio.sleep(0.02)
        assert not task.done()
        assert processor.stats().waiting == 2
        gate.opened.set()
        return await task

    assert torch.equal(asyncio.run(awaits()), LAYER(X))
    processor.shutdown()
    assert processor.stats().completed == len(futures) + 1


def test_a_task_that_takes_too_long_is_an_error_and_others_are_not(gate):
    with ParallelInferenceProcessor(gate, 1) as processor:
        running = processor.submit(X, timeout_s=0.05)
        assert gate.entered.acquire(timeout=10)
        waiting = processor.submit(X, timeout_s=0.05)
        patient = processor.submit(X)
        with pytest.raises(RequestTimeout, match="running after 0.05 s"):
            running.result(10)
        with pytest.raises(RequestTimeout, match="waiting after 0.05 s"):
            waiting.result(10)
        gate.opened.set()
        assert torch.equal(patient.result(10), LAYER(X))
        assert torch.equal(processor.infer(X, timeout_s=60), LAYER(X))
    stats = processor.stats()
    assert (stats.completed, stats.timed_out) == (2, 2)
    assert stats.workers[0].tasks == 3  # the one that waited was never run


def test_a_running_task_can_be_cancelled(gate):
    with ParallelInferenceProcessor(gate, 1) as processor:
        future = processor.submit(X)
        assert gate.entered.acquire(timeout=10)
        assert future.cancel()
        assert wait([future], timeout=5).done == {future}
        gate.opened.set()
        assert torch.equal(processor.infer(X), LAYER(X))
    assert processor.stats().cancelled == 1


def test_a_caller_that_leaves_its_loop_cancels_its_task(gate):
    processor = ParallelInferenceProcessor(gate, 1, capacity=1)

    async def leave():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.infer_async(X), 0.05)
        processor.submit(X)  # the worker is busy with the first one
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.infer_async(X), 0.05)  # waits for a place

    asyncio.run(leave())
    gate.opened.set()
    processor.shutdown()
    stats = processor.stats()
    assert (stats.completed, stats.cancelled, stats.accepted) == (1, 1, 2)


def test_a_shutdown_finishes_what_was_accepted_and_refuses_the_rest(gate):
    processor = ParallelInferenceProcessor(gate, 2, capacity=6)
    futures = [processor.submit(X) for _ in range(2)]
    for _ in range(2):
        assert gate.entered.acquire(timeout=10)
    futures += [processor.submit(X) for _ in range(6)]
    with ThreadPoolExecutor(2) as pool:
        blocked = pool.submit(processor.submit, X)
        closing = pool.submit(asyncio.run, processor.aclose())
        with pytest.raises(EngineClosed):
            blocked.result(10)
        with pytest.raises(EngineClosed):
            processor.submit(X)
        assert not closing.done()
        gate.opened.set()
        closing.result(10)
    assert all(torch.equal(future.result(0), LAYER(X)) for future in futures)
    processor.shutdown()


@pytest.mark.parametrize("seed", range(3))
def test_a_shutdown_under_load_answers_all_that_was_accepted(seed):
    processor, accepted, refused = ParallelInferenceProcessor(Recorded(), 2, capacity=3), [], []

    def submit_in_a_thread():
        try:
            while True:
                accepted.append(processor.submit(X, timeout_s=100))
        except EngineClosed:
            refused.append(1)

    async def submit_in_a_loop():
        try:
            while True:
                accepted.append(await processor.submit_async(X))
                await asyncio.sleep(0)
        except EngineClosed:
            refused.append(1)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(submit_in_a_thread) for _ in range(2)]
        jobs += [pool.submit(asyncio.run, submit_in_a_loop()) for _ in range(2)]
        time.sleep(0.01 * (seed + 1))
        processor.shutdown()
        for job in jobs:
            job.result(10)
    assert len(refused) == 4
    assert all(torch.equal(future.result(0), LAYER(X)) for future in accepted)
    stats = processor.stats()
    assert stats.completed == stats.accepted == len(accepted) > 0


def test_tasks_go_to_workers_that_are_free():
    slow, fast = Recorded(seconds=0.02), Recorded(seconds=0.001)
    with ParallelInferenceProcessor([slow, fast]) as processor:
        list(processor.map([X] * 60))
    assert len(fast.calls) > 3 * len(slow.calls) > 0
    assert [worker.tasks for worker in processor.stats().workers] == [len(slow.calls), len(fast.calls)]
    assert processor.stats().workers[0].seconds >= 0.02 * len(slow.calls)


class Random(nn.Module):
    """A module that is done sooner or later."""

    def forward(self, x):
        time.sleep(float(x[0]) % 0.003)
        return 2 * x


def test_results_come_in_order_and_little_is_read_ahead():
    xs = [torch.full((3,), float(number)) for number in torch.randperm(50)]
    read = []

    def source():
        for x in xs:
            read.append(x)
            yield x

    with ParallelInferenceProcessor(Random().eval(), 3, capacity=4) as processor:
        for number, y in enumerate(processor.map(source())):
            assert torch.equal(y, 2 * xs[number])
            assert len(read) <= number + 1 + 4 + 3
    assert len(read) == 50


def test_two_event_loops_and_threads_share_a_processor():
    async def source(count):
        for number in range(count):
            await asyncio.sleep(0)
            yield torch.full((3,), float(number))

    async def run(processor, xs):
        return [float(y[0]) async for y in processor.map_async(xs)]

    with ParallelInferenceProcessor(Random().eval(), 2, capacity=3) as processor, ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(asyncio.run, run(processor, source(20))) for _ in range(2)]
        jobs.append(
            pool.submit(lambda: [float(y[0]) for y in processor.map(torch.full((3,), float(n)) for n in range(20))])
        )
        for job in jobs:
            assert job.result(30) == [2.0 * number for number in range(20)]


def test_a_map_in_a_loop_reads_little_ahead():
    read = []

    def source():
        for number in range(30):
            read.append(number)
            yield torch.full((3,), float(number))

    async def run():
        async with ParallelInferenceProcessor(Random().eval(), 2, capacity=3) as processor:
            outputs = []
            async for y in processor.map_async(source()):
                outputs.append(float(y[0]))
                assert len(read) <= len(outputs) + 3 + 2
            return outputs

    assert asyncio.run(run()) == [2.0 * number for number in range(30)]


def test_a_map_that_is_left_cancels_what_it_has_queued():
    with ParallelInferenceProcessor(Recorded(seconds=0.05), 1, capacity=5) as processor:
        outputs = processor.map([X] * 20)
        next(outputs)
        outputs.close()
    stats = processor.stats()
    assert stats.cancelled >= 3
    assert stats.accepted == stats.completed + stats.cancelled == 6


def test_deadlines_of_tasks_that_have_ended_are_forgotten():
    with ParallelInferenceProcessor(LAYER, 2) as processor:
        list(processor.map([X] * 200, timeout_s=1000))
        assert len(processor._deadlines._heap) <= 1


def test_threads_that_have_ended_take_no_task():
    """The interpreter ends them before objects are gone."""
    processor = ParallelInferenceProcessor(LAYER, 1, capacity=2)
    processor._threads.shutdown()
    for _ in range(5):  # more than there are places
        with pytest.raises(EngineClosed):
            processor.submit(X, wait_s=1)
    assert processor.stats().accepted == 0


def test_an_error_ends_a_map_in_its_place():
    xs = [torch.ones(1, K), torch.full((1, K), 7.0), torch.ones(1, K)]
    with ParallelInferenceProcessor(Recorded(refuse=7.0), 2) as processor:
        outputs = processor.map(xs)
        assert torch.equal(next(outputs), LAYER(xs[0]))
        with pytest.raises(RuntimeError, match="begins with"):
            next(outputs)
        assert torch.equal(processor.infer(xs[0]), LAYER(xs[0]))


class Exits(nn.Module):
    def forward(self, x):
        raise SystemExit(3)


def test_a_module_that_exits_harms_its_task_alone():
    with ParallelInferenceProcessor([Exits().eval()]) as processor:
        for _ in range(3):
            assert isinstance(processor.submit(X).exception(10), SystemExit)
    assert processor.stats().failed == 3


def test_tensors_are_freed_with_their_tasks_not_with_their_deadlines():
    gc.collect()
    gc.disable()
    try:
        with ParallelInferenceProcessor(nn.Identity().eval(), 1) as processor:
            x = torch.ones(4)
            future = processor.submit(x, timeout_s=1000)
            future.result(10)
            left = weakref.ref(x)
            processor.infer(torch.ones(4))  # the worker has let go of the task before
            del x, future
            assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ParallelInferenceProcessor(LAYER, 0), "workers"),
        (lambda: ParallelInferenceProcessor(LAYER, capacity=0), "capacity"),
        (lambda: ParallelInferenceProcessor([]), "module"),
        (lambda: ParallelInferenceProcessor("model"), "module: .*'model'"),
        (lambda: ParallelInferenceProcessor([LAYER, LAYER], 3), "workers: expected 2 or None"),
        (lambda: ParallelInferenceProcessor([LAYER, 5]), "module: .*5"),
        (lambda: ParallelInferenceProcessor([nn.Dropout()]), "eval"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()


@pytest.mark.parametrize("value", [-1, float("nan"), "1", float("inf"), True])
def test_bad_times_are_refused(value):
    with ParallelInferenceProcessor(LAYER, 1) as processor:
        for name in ("timeout_s", "wait_s"):
            with pytest.raises(InvalidInput, match=name):
                processor.submit(X, **{name: value})
        with pytest.raises(InvalidInput, match="x: "):
            processor.submit([1.0])
    assert processor.stats().accepted == 0
