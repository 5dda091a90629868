"""`InferenceStream`: batches form, order holds where it is asked for, one bad item harms no other, sources wait."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_modules import K, Recorded, inputs, packed
from torch import nn

from bitnet_jit.engine.tensors.stream import InferenceStream, StreamingConfig
from bitnet_jit.engine.tensors.ticker import Ticker
from bitnet_jit.errors import InvalidInput

LAYER = packed()


async def as_async(xs):
    """Yield what a list holds, with turns of the loop between."""
    for x in xs:
        await asyncio.sleep(0)
        yield x


def run_async(stream, source):
    """Return all results of a stream that an event loop of its own iterates."""

    async def run():
        return [item async for item in stream.run_async(source)]

    return asyncio.run(run())


WAYS = {
    "list": lambda stream, xs: list(stream.run(xs)),
    "iterator": lambda stream, xs: list(stream.run(iter(xs))),
    "list in a loop": run_async,
    "async iterator": lambda stream, xs: run_async(stream, as_async(xs)),
}
MAKE = {
    "good": lambda number: inputs([(number % 4,)], seed=number)[0],
    "one": lambda number: inputs([()], seed=number)[0],
    "bad": lambda number: torch.full((1, K), 7.0),
    "narrow": lambda number: torch.ones(1, K - 1),
    "short memory": lambda number: torch.ones(600, K),
    "none": lambda number: "text",
}


@given(
    st.lists(st.sampled_from(list(MAKE)), max_size=30),
    st.integers(1, 8),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(list(WAYS)),
)
@settings(max_examples=40)
def test_each_item_gives_its_own_output_or_error(kinds, buffer_size, ordered, workers, way):
    module = Recorded(refuse=7.0, fits=500)
    xs = [MAKE[kind](number) for number, kind in enumerate(kinds)]
    config = StreamingConfig(buffer_size, max_latency_ms=1, preserve_order=ordered, channel_capacity=buffer_size + 3)
    items = WAYS[way](InferenceStream(module, config, workers=workers), xs)
    if ordered:
        assert [item.index for item in items] == list(range(len(xs)))
    assert sorted(item.index for item in items) == list(range(len(xs)))
    for item in items:
        kind, x = kinds[item.index], xs[item.index]
        assert 1 <= item.batch <= buffer_size
        assert item.seconds > 0
        if kind in ("good", "one"):
            assert torch.equal(item.result(), LAYER(x))
        else:
            assert item.output is None
            with pytest.raises(type(item.error)):
                item.result()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ordered", [True, False])
def test_batches_really_form(way, ordered):
    module = Recorded(seconds=0.002)
    stream = InferenceStream(module, StreamingConfig(preserve_order=ordered, max_latency_ms=1000), workers=1)
    items = WAYS[way](stream, inputs([()] * 160))
    assert module.calls == [16] * 10
    assert {item.batch for item in items} == {16}


class Numbered(nn.Module):
    """A module that takes long for rows that begin with 0."""

    def forward(self, x):
        time.sleep(0.1 if bool((x[:, 0] == 0).any()) else 0.001)
        return x + 1


@pytest.mark.parametrize("way", WAYS)
def test_unordered_results_do_not_wait_for_a_slow_batch_and_ordered_ones_do(way):
    xs = [torch.full((1,), float(number)) for number in range(40)]
    for ordered in (True, False):
        config = StreamingConfig(buffer_size=4, preserve_order=ordered)
        items = WAYS[way](InferenceStream(Numbered().eval(), config, workers=2), xs)
        assert [float(item.result()) for item in items] == [item.index + 1 for item in items]
        assert (items[0].index == 0) is ordered
        assert sorted(item.index for item in items) == list(range(40))


def test_an_item_waits_for_others_no_longer_than_asked():
    def source():
        yield torch.ones(K)
        time.sleep(0.5)
        yield torch.ones(K)

    stream = InferenceStream(Recorded(), StreamingConfig(max_latency_ms=20))
    items = list(stream.run(source()))
    assert [item.batch for item in items] == [1, 1]
    assert all(0.015 < item.seconds < 0.3 for item in items[:1])
    patient = InferenceStream(Recorded(), StreamingConfig(max_latency_ms=5000))
    assert [item.batch for item in patient.run(source())] == [2, 2]


def read_ahead(stream, way):
    """Return how far a source is read before each result is taken."""
    count, ahead = [], []

    def source():
        for x in inputs([()] * 40):
            count.append(None)
            yield x

    async def take_slowly(source):
        async for item in stream.run_async(source):
            await asyncio.sleep(0.003)
            ahead.append(len(count) - item.index)

    if way == "thread":
        for item in stream.run(source()):
            time.sleep(0.003)
            ahead.append(len(count) - item.index)
    else:
        asyncio.run(take_slowly(source() if way == "loop" else as_async(source())))
    return ahead


@pytest.mark.parametrize("way", ["thread", "loop", "async source"])
def test_a_slow_consumer_makes_the_source_wait(way):
    stream = InferenceStream(Recorded(), StreamingConfig(buffer_size=4, channel_capacity=10))
    ahead = read_ahead(stream, way)
    assert len(ahead) == 40
    assert 4 < max(ahead) <= 10 + 2 + (way == "async source")  # the list behind an async source is one item ahead


@pytest.mark.parametrize("way", ["iterator", "list in a loop", "async iterator"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_that_breaks_off_gives_its_error_last(way, ordered):
    def breaking():
        yield from inputs([()] * 5)
        raise OSError("the line went dead")

    async def breaking_async():
        for x in breaking():
            yield x

    stream = InferenceStream(LAYER, StreamingConfig(preserve_order=ordered))
    source = breaking_async() if way == "async iterator" else breaking()
    items = run_async(stream, source) if "loop" in way or "async" in way else list(stream.run(source))
    assert len(items) == 6
    assert items[-1].index == 5
    with pytest.raises(OSError, match="dead"):
        items[-1].result()
    assert all(item.error is None for item in items[:5])


def stream_threads():
    """Return the number of threads that belong to streams."""
    return sum(thread.name == "bitnet_jit stream" for thread in threading.enumerate())


def wait_until(condition):
    """Wait until something holds, ten seconds at most."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


def test_a_stream_that_is_left_ends_its_threads():
    wait_until(lambda: stream_threads() == 0)  # those of other tests have ended
    endless = InferenceStream(LAYER, workers=2).run(Ticker(lambda tick: torch.ones(K), 0))
    next(endless)
    assert stream_threads() == 3
    endless.close()
    wait_until(lambda: stream_threads() == 0)

    async def leave():
        results = InferenceStream(LAYER, workers=2).run_async(Ticker(lambda tick: torch.ones(K), 0.1))
        async for _ in results:
            break
        await results.aclose()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())
    wait_until(lambda: stream_threads() == 0)


def test_a_stream_can_be_left_while_its_source_is_silent():
    before, line = stream_threads(), threading.Event()

    def silent():
        yield torch.ones(K)
        line.wait(20)

    results = InferenceStream(LAYER, workers=2).run(silent())
    next(results)
    results.close()
    wait_until(lambda: stream_threads() == before + 1)  # the one that reads the source
    line.set()
    wait_until(lambda: stream_threads() == before)

    async def silent_async():
        yield torch.ones(K)
        await asyncio.Event().wait()

    async def leave():
        results = InferenceStream(LAYER, workers=2).run_async(silent_async())
        await anext(results)
        await asyncio.wait_for(results.aclose(), 10)

    asyncio.run(leave())
    wait_until(lambda: stream_threads() == before)


def test_a_caller_that_is_cancelled_leaves_nothing_behind():
    async def endless():
        while True:
            await asyncio.sleep(0.001)
            yield torch.ones(K)

    async def run():
        async def read():
            async for _ in InferenceStream(LAYER).run_async(endless()):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(), 0.05)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    before = stream_threads()
    asyncio.run(run())
    wait_until(lambda: stream_threads() == before)


def test_streams_in_threads_and_loops_share_an_object():
    stream, xs = InferenceStream(LAYER, workers=2), inputs([(3,)] * 50)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(WAYS[way], stream, xs) for way in WAYS]
        for job in jobs:
            assert all(torch.equal(item.result(), LAYER(xs[item.index])) for item in job.result(30))


class Exits(nn.Module):
    def forward(self, x):
        raise SystemExit(3)


def test_a_module_that_exits_is_told():
    items = list(InferenceStream(Exits().eval()).run([torch.ones(1)] * 3))
    assert [type(item.error) for item in items] == [SystemExit] * 3


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_ticker_keeps_its_times(kind):
    ticker = Ticker(lambda tick: torch.full((K,), float(tick)), 10, count=12)
    begin, stream = time.monotonic(), InferenceStream(nn.Identity().eval(), StreamingConfig(max_latency_ms=0))
    items = list(stream.run(ticker)) if kind == "thread" else run_async(stream, ticker)
    assert [float(item.result()[0]) for item in items] == list(range(12))
    assert time.monotonic() - begin >= 0.11


def test_a_late_reader_gets_its_ticks_at_once():
    ticks, begin = iter(Ticker(torch.tensor, 20, count=10)), time.monotonic()
    next(ticks)
    time.sleep(0.3)
    assert [int(x) for x in ticks] == list(range(1, 10))
    assert time.monotonic() - begin < 0.45


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: StreamingConfig(buffer_size=0), "buffer_size"),
        (lambda: StreamingConfig(buffer_size=16, channel_capacity=15), "channel_capacity"),
        (lambda: StreamingConfig(max_latency_ms=-1), "max_latency_ms"),
        (lambda: StreamingConfig(max_latency_ms=float("nan")), "max_latency_ms"),
        (lambda: StreamingConfig(preserve_order=1), "preserve_order"),
        (lambda: InferenceStream(len), "module"),
        (lambda: InferenceStream(LAYER, workers=0), "workers"),
        (lambda: InferenceStream(LAYER, row_dims=0), "row_dims"),
        (lambda: InferenceStream(LAYER).run(5), "source: .*5"),
        (lambda: InferenceStream(LAYER).run(as_async([])), "source: .*run_async"),
        (lambda: run_async(InferenceStream(LAYER), 5), "source: .*5"),
        (lambda: Ticker(5, 1), "make"),
        (lambda: Ticker(len, -1), "interval_ms"),
        (lambda: Ticker(len, 1, count=1.5), "count"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()
