"""`BatchProcessor`: nothing is lost or reordered, whatever fits into memory; sizes follow what was measured."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import K, Recorded, inputs, packed

from bitnet_jit.engine.tensors import memory_used as memory
from bitnet_jit.engine.tensors.batch_size import BatchingConfig
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.errors import InvalidInput, OutOfMemory

LAYER = packed()
LEADING = st.one_of(st.just(()), st.tuples(st.integers(0, 90)), st.tuples(st.integers(0, 5), st.integers(0, 5)))


@given(st.lists(LEADING, max_size=20), st.integers(1, 64), st.one_of(st.none(), st.integers(1, 70)))
def test_rows_have_the_same_bits_in_any_batch_whatever_fits(leadings, initial, fits):
    module = Recorded(fits=fits)
    processor = BatchProcessor(module, BatchingConfig(initial=initial), used=lambda: 0.0)
    xs = inputs(leadings)
    outputs = processor.run(xs)
    assert [tuple(y.shape) for y in outputs] == [(*x.shape[:-1], 10) for x in xs]
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    assert sum(module.calls) == sum(x.numel() // K for x in xs)
    performance = processor.performance()
    assert performance.rows == sum(module.calls)
    assert performance.batches == len(module.calls)
    assert performance.out_of_memory == module.refused


class Uneven(torch.nn.Module):
    """A module that runs out of memory by chance, at any size but one."""

    def __init__(self, random):
        super().__init__()
        self.random, self.inner = random, packed()

    def forward(self, x):
        y = self.inner(x)
        if len(x) > 1 and self.random.random() < 0.5:
            raise torch.OutOfMemoryError("injected, after the work")
        return y


@given(st.randoms(use_true_random=False))
def test_out_of_memory_at_any_size_loses_nothing(random):
    xs = inputs([(random.randrange(20),) for _ in range(10)])
    outputs = BatchProcessor(Uneven(random).eval()).run(xs)
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))


def test_a_row_that_does_not_fit_alone_is_an_error_and_the_processor_goes_on():
    module = Recorded(fits=0)
    processor = BatchProcessor(module)
    with pytest.raises(OutOfMemory, match="one row"):
        processor.run([torch.ones(5, K)])
    module.fits = None
    assert torch.equal(processor.run([torch.ones(5, K)])[0], LAYER(torch.ones(5, K)))


def test_other_errors_are_not_tried_again():
    module = Recorded(refuse=7.0)
    with pytest.raises(RuntimeError, match="begins with"):
        BatchProcessor(module).run([torch.full((4, K), 7.0)])
    assert module.calls == []


def test_batches_grow_where_calls_are_what_takes_time():
    module = Recorded(seconds=5e-3)  # more than a busy machine adds to the median of three
    processor = BatchProcessor(module, BatchingConfig(initial=4, max_rows=128))
    processor.run([torch.ones(1, K)] * 1500)
    assert processor.batch_size == 128
    assert max(module.calls) == 128
    sizes = {row.size: row for row in processor.performance().sizes}
    assert list(sizes) == [4, 8, 16, 32, 64, 128]
    assert sizes[128].rows_per_second > 8 * sizes[4].rows_per_second
    assert 5 <= sizes[128].milliseconds < 50
    assert sizes[4].rows == 4 * sizes[4].batches
    performance = processor.performance()
    assert performance.rows_per_second == pytest.approx(1500 / performance.seconds)
    assert BatchProcessor(module).performance().rows_per_second == 0


def test_batches_stay_small_where_memory_is_used_up():
    module = Recorded(seconds=1e-4)
    processor = BatchProcessor(module, BatchingConfig(initial=16, memory_threshold=0.5), used=lambda: 0.6)
    processor.run([torch.ones(1, K)] * 500)
    assert processor.batch_size == 1
    assert max(module.calls) == 16


def test_threads_and_event_loops_share_a_processor():
    processor = BatchProcessor(Recorded(fits=20), BatchingConfig(initial=64))
    lists = [inputs([(rows,), (3, rows)], seed=rows) for rows in range(1, 20)]

    async def run_all():
        return await asyncio.gather(*(processor.run_async(xs) for xs in lists))

    with ThreadPoolExecutor(3) as pool:
        outputs = list(pool.map(processor.run, lists)) + asyncio.run(run_all())
    for xs, ys in zip(lists * 2, outputs, strict=True):
        assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, ys, strict=True))


def test_bad_arguments_are_refused():
    with pytest.raises(InvalidInput, match="module"):
        BatchProcessor(lambda x: x)
    with pytest.raises(InvalidInput, match="row_dims"):
        BatchProcessor(LAYER, row_dims="2")
    with pytest.raises(InvalidInput, match=r"xs\[1\]"):
        BatchProcessor(LAYER).run([torch.ones(K), torch.ones(K + 1)])


def test_used_memory_is_what_the_system_tells(tmp_path, monkeypatch):
    before = memory.memory_used(torch.device("cpu"))
    assert 0.01 < before < 1
    assert memory.memory_used(torch.device("meta")) == 0
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.memory_used(None) == 0
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {memory.physical_memory() // 4096} kB\n")
    monkeypatch.setattr(memory, "total_memory", memory.physical_memory)
    assert memory.memory_used(None) == pytest.approx(0.75, abs=0.01)


def test_a_container_is_full_by_its_own_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda: 1000)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.memory_used(None) == 0
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    assert memory.memory_used(None) == pytest.approx(0.6)
