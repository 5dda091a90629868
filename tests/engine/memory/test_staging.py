"""Copies beside compute: nothing is read before its copy has ended, nothing is used again before its reader has.

`Device` stands for a GPU: its copies happen as late as they can, when somebody waits for them, and what is still to be
written holds NaN. So whoever does not wait, or uses a buffer again too early, gets wrong numbers.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import inputs, packed
from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.memory import engine_memory
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.memory.placement import AllocationStrategy
from bitnet_jit.engine.memory.region import PINNED, Block, HostSource
from bitnet_jit.engine.memory.staging import chunks
from bitnet_jit.engine.tensors import infer as tensors
from bitnet_jit.engine.tensors.infer import infer, infer_batch

K = 24
LAYER = packed()
PLACE = torch.device("meta")


class Delayed:
    """A copy that happens when somebody waits for it, as all before it do."""

    def __init__(self, device, source, out):
        self.device, self.is_over = device, False
        self.source, self.out = source, out
        self.out.fill_(float("nan"))

    def run(self):
        self.out.copy_(self.source)
        self.is_over = True
        self.device.log.append("copied")

    def query(self):
        return self.is_over

    def synchronize(self):
        self.device.run_until(self)

    def seconds(self):
        assert self.is_over
        return 0.5


def at_address(tensor):
    """Return memory of the host as a device knows it: without a reference that would keep it."""
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=torch.float32).view(tensor.shape)


class Lasting(HostSource):
    """A source whose memory is never freed, so that a late copy does no harm to others."""

    def __init__(self):
        self.blocks = []

    def allocate(self, num_bytes):
        self.blocks.append(super().allocate(num_bytes))
        return Block(self.blocks[-1].memory.view(-1))


class Device:
    """A device whose copies are late. Its memory is the CPU's, but apart: `elsewhere` knows its tensors."""

    def __init__(self):
        self.queue, self.log, self.tensors = [], [], []

    def run_until(self, copy=None):
        while self.queue and not (copy is not None and copy.is_over):
            self.queue.pop(0).run()

    def empty(self, shape, dtype):
        self.tensors.append(torch.empty(shape, dtype=dtype))
        return self.tensors[-1]

    def send(self, host, out):
        self.log.append(f"send {len(host)}")
        self.queue.append(Delayed(self, at_address(host), out))
        return self.queue[-1]

    def use(self, out):
        self.log.append("use")
        self.run_until()  # the module that is called next computes at once

    def holds(self, y):
        return True

    def receive(self, y, host):
        self.log.append(f"receive {len(y)}")
        self.queue.append(Delayed(self, y, at_address(host)))
        return self.queue[-1]


@pytest.fixture
def small_copies(monkeypatch):
    """Stage copies of any size, in chunks of 10 rows."""
    monkeypatch.setattr(engine_memory, "MIN_STAGED", 0)
    monkeypatch.setattr(tensors, "device_of", lambda module: PLACE)


def memory_on(device, strategy=AllocationStrategy.AUTOMATIC, limit=2**20):
    memory = EngineMemory(limit, strategy, copies_of=lambda place: device, staging_source=Lasting())
    memory._staging._chunk_bytes = 40 * K
    return memory


LEADING = st.one_of(st.just(()), st.tuples(st.integers(1, 90)), st.tuples(st.integers(1, 5), st.integers(1, 5)))


@pytest.mark.usefixtures("small_copies")
@given(st.lists(LEADING, min_size=1, max_size=10), st.sampled_from([3000, 20_000, 2**20]))
def test_staged_rows_have_the_same_bits(leadings, limit):
    device = Device()
    memory = memory_on(device, limit=limit)
    xs = inputs(leadings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda x, place: x)  # what is not staged; "meta" would hold no values
        outputs = infer_batch(LAYER, xs, memory=memory)
        single = infer(LAYER, xs[0], memory=memory)
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    with torch.inference_mode():
        device.run_until()  # copies of a result that the pool had no room for come late, and to no harm
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    assert torch.equal(single, LAYER(xs[0]))
    assert memory.statistics().active_bytes == 0
    assert memory.statistics().peak_bytes <= limit


@pytest.mark.usefixtures("small_copies")
def test_results_are_memory_of_their_own():
    device = Device()
    memory = memory_on(device)
    xs = inputs([(30,), (7,)])
    first = infer_batch(nn.Identity(), xs, memory=memory)
    infer_batch(nn.Identity(), inputs([(30,), (7,)], seed=1), memory=memory)
    assert all(torch.equal(x, y) for x, y in zip(xs, first, strict=True))
    memory.trim()
    assert all(torch.equal(x, y) for x, y in zip(xs, first, strict=True))


@pytest.mark.usefixtures("small_copies")
def test_the_next_batch_is_sent_before_the_last_result_is_waited_for():
    device = Device()
    xs = inputs([(300,), (301,), (302,)])
    calls = []
    device.send = lambda host, out: (calls.append("send"), Device.send(device, host, out))[1]
    device.receive = lambda y, host: (calls.append("receive"), Device.receive(device, y, host))[1]
    memory = memory_on(device)
    memory._staging._chunk_bytes = 2**20
    finish = memory.finish
    memory.finish = lambda buffers: (calls.append("finish"), finish(buffers))[1]
    outputs = infer_batch(LAYER, xs, memory=memory)
    assert all(torch.equal(y, LAYER(x)) for x, y in zip(xs, outputs, strict=True))
    assert calls == ["send", "receive", "send", "receive", "finish", "send", "receive", "finish", "finish"]


@pytest.mark.usefixtures("small_copies")
def test_a_buffer_waits_for_its_copy():
    device = Device()
    memory = memory_on(device)
    (x,) = inputs([(10,)])
    staging = memory._staging
    device.use = lambda out: None
    one = staging.send([x], device)
    two = staging.send([x + 1], device)  # the first copy has not been made: its buffer is not free
    assert memory.statistics().hits == 0
    device.run_until()
    assert torch.equal(one, x)
    assert torch.equal(two, x + 1)
    staging.send([x], device)
    assert memory.statistics().hits == 1


@pytest.mark.usefixtures("small_copies")
def test_an_error_between_launch_and_result_frees_no_buffer_too_early():
    device = Device()
    memory = memory_on(device)
    (x,) = inputs([(10,)])
    parts = memory._staging.receive(x, device)
    del parts  # nobody waits any more: a module has failed
    other = memory._staging.send([x], device)
    device.run_until()
    assert torch.equal(other, x)
    assert memory.statistics().hits == 0


@pytest.mark.usefixtures("small_copies")
def test_statistics_count_operations_and_bandwidth():
    memory = memory_on(Device())
    (x,) = inputs([(25,)])
    infer(LAYER, x, memory=memory)
    account = memory.statistics()
    assert account.staging_operations == 3 + 2  # inputs in chunks of 10 rows, outputs of 24
    assert account.transferred_bytes == 25 * 4 * (K + 10)
    assert account.bandwidth_gb_s == pytest.approx(account.transferred_bytes / 2.5 / 1e9)
    assert "staging operations          5" in account.display()


class Places(nn.Module):
    """A module on "meta", which notes what comes to it."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.eval()

    def forward(self, x):
        self.seen.append((x.device.type, len(x)))
        return torch.empty(len(x), 3, device=PLACE)


EFFECTS = {  # strategy -> (tensors that go to the model one by one, staged, where results are)
    AllocationStrategy.AUTOMATIC: (1, True, "cpu"),
    AllocationStrategy.PREFER_CPU: (1, False, "cpu"),
    AllocationStrategy.PREFER_GPU: (3, True, "meta"),
    AllocationStrategy.MINIMIZE_TRANSFERS: (1, True, "meta"),
}


@pytest.mark.parametrize("strategy", AllocationStrategy)
def test_strategies_decide_where_rows_wait_and_results_stay(strategy, monkeypatch):
    moved, asked = [], []
    real = torch.Tensor.to

    def to(x, place):
        moved.append((x.device.type, len(x), place.type))
        return torch.empty(x.shape, device=place) if x.is_meta else real(x, place)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(engine_memory, "MIN_STAGED", 0)
    monkeypatch.setattr(tensors, "device_of", lambda module: PLACE)
    memory = EngineMemory(strategy=strategy, copies_of=lambda place: asked.append(place))
    outputs = infer_batch(Places(), inputs([(2,), (3,), (4,)]), memory=memory)
    copies, staged, home = EFFECTS[strategy]
    assert len([x for x in moved if x[0] == "cpu" and x[2] == "meta"]) == copies
    assert bool(asked) == staged
    assert [(y.device.type, len(y)) for y in outputs] == [(home, 2), (home, 3), (home, 4)]
    assert infer(Places(), torch.ones(5, K), memory=memory).device.type == home


def test_results_of_a_gpus_inputs_go_to_the_cpu_where_it_is_preferred(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "to", lambda x, place: torch.zeros(x.shape, device=place))
    monkeypatch.setattr(tensors, "device_of", lambda module: PLACE)
    x = torch.ones(5, K, device=PLACE)
    for strategy, home in ((AllocationStrategy.PREFER_CPU, "cpu"), (AllocationStrategy.AUTOMATIC, "meta")):
        memory = EngineMemory(strategy=strategy)
        assert infer(Places(), x, memory=memory).device.type == home
        assert infer_batch(Places(), [x, x], memory=memory)[1].device.type == home


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 200))
def test_chunks_hold_every_row_once(counts, num_bytes):
    parts = [torch.full((rows, 2), float(number)) for number, rows in enumerate(counts)]
    groups = list(chunks(parts, num_bytes))
    assert torch.equal(torch.cat([part for group in groups for part in group] or parts), torch.cat(parts))
    assert all(0 < 8 * sum(len(part) for part in group) <= max(8, num_bytes) for group in groups)


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture
def on_gpu():
    return packed(768, 768).cuda(), packed(768, 768)


class TestOnGpu:
    pytestmark = gpu

    def test_staged_rows_have_the_same_bits(self, on_gpu):
        layer, wanted = on_gpu
        memory = EngineMemory(2**26)
        for rows in (1, 3, 17, 1000, 9001):
            xs = inputs([(rows,), (rows + 1,), (), (2, rows)], in_features=768, seed=rows)
            for y, x in zip(infer_batch(layer, xs, memory=memory), xs, strict=True):
                assert y.is_cpu
                assert torch.equal(y, wanted(x))
            assert torch.equal(infer(layer, xs[0], memory=memory), wanted(xs[0]))
        account = memory.statistics()
        assert account.staging_operations > 10
        assert account.bandwidth_gb_s > 1
        assert account.active_bytes == 0
        assert account.peak_bytes <= 2**26

    def test_threads_share_buffers_and_streams(self, on_gpu):
        layer, _ = on_gpu
        memory = EngineMemory(2**25)

        def work(seed):
            for step in range(20):
                xs = inputs([(200 + seed,), (400,), (3,)], in_features=768, seed=100 * seed + step)
                with torch.cuda.stream(torch.cuda.Stream()):
                    ys = infer_batch(nn.Sequential(layer, nn.ReLU()).eval(), xs, memory=memory)
                if not all(torch.equal(y, layer(x.cuda()).relu().cpu()) for x, y in zip(xs, ys, strict=True)):
                    return False
            return True

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(4)))

    def test_buffers_that_are_filled_again_are_read_before(self, on_gpu):
        layer, wanted = on_gpu
        memory = EngineMemory(2**21)
        memory._staging._chunk_bytes = 2**19  # four at a time, for twelve that an input takes
        for seed in range(10):
            (x,) = inputs([(2000,)], in_features=768, seed=seed)
            assert torch.equal(infer(layer, x, memory=memory), wanted(x))
        account = memory.statistics()
        assert account.staging_operations >= 120
        assert account.hit_rate > 0.8

    def test_copies_go_on_beside_the_devices_work(self):
        device = torch.device("cuda", torch.cuda.current_device())
        copies, memory = kind_of(device).copies(device), EngineMemory()
        host = memory.pool.allocate(2**24, PINNED).tensor((2**22,), torch.float32).fill_(3)
        back = memory.pool.allocate(2**24, PINNED).tensor((2**22,), torch.float32)
        assert host.is_pinned()
        a = torch.randn(8192, 8192, device=device)
        x = copies.empty(host.shape, host.dtype)
        copies.send(host, x).synchronize()
        torch.cuda.synchronize()
        for _ in range(50):
            a = a @ a / 90  # some 20 ms each
        done = torch.cuda.Event()
        done.record()
        sent = copies.send(host, x)
        sent.synchronize()
        assert not done.query()
        assert sent.seconds() < 0.1
        copies.use(x)
        y = x + 1
        received = copies.receive(y, back)
        assert not received.query()  # it waits for what makes y, which is behind the products
        received.synchronize()
        assert done.query()
        assert bool((back == 4).all())

    def test_results_stay_where_the_strategy_says(self, on_gpu):
        layer, _ = on_gpu
        (x,) = inputs([(500,)], in_features=768)
        for strategy, (_, _, home) in EFFECTS.items():
            memory = EngineMemory(strategy=strategy)
            wanted = "cpu" if home == "cpu" else "cuda"
            assert infer(layer, x, memory=memory).device.type == wanted
            assert {y.device.type for y in infer_batch(layer, [x, x], memory=memory)} == {wanted}
            assert bool(memory.statistics().staging_operations) == (strategy is not AllocationStrategy.PREFER_CPU)
