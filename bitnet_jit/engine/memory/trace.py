"""A recorded serving run: which buffers it asked for and gave back, in order; and what a pool makes of them."""

import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from bitnet_jit.arguments import whole_number
from bitnet_jit.engine.memory.buffer import Buffer
from bitnet_jit.engine.memory.engine_memory import EngineMemory
from bitnet_jit.engine.memory.pool import DEFAULT_LIMIT_BYTES, BufferPool
from bitnet_jit.engine.memory.size_classes import ALIGN
from bitnet_jit.engine.memory.statistics import MemoryStats
from bitnet_jit.engine.tensors.batch_size import BatchingConfig
from bitnet_jit.engine.tensors.batcher import BatchProcessor
from bitnet_jit.engine.tensors.benchmark import quantile

FEATURES = (768, 1536, 2560)
MAX_INPUT_ROWS = 64
MAX_INPUTS = 48


@dataclass(frozen=True)
class TraceEvent:
    """A buffer of that number was asked for with so many bytes; or, None, its memory became free."""

    number: int
    num_bytes: int | None


@dataclass(frozen=True)
class TraceFigures:
    """What a pool made of a trace.

    Attributes:
        statistics: its account.
        p50_ms, p99_ms, max_ms: what an allocation took.
    """

    statistics: MemoryStats
    p50_ms: float
    p99_ms: float
    max_ms: float

    def meets_targets(self) -> bool:
        """Return whether over 80 % were hits, under 20 % is lost, and 99 of 100 allocations took less than 1 ms."""
        account = self.statistics
        return account.hit_rate > 0.8 and account.fragmentation < 0.2 and self.p99_ms < 1

    def display(self) -> str:
        """Return the figures as a table in plain text."""
        times = f"{1e3 * self.p50_ms:.1f} / {1e3 * self.p99_ms:.1f} / {1e3 * self.max_ms:.1f} us"
        return f"{self.statistics.display()}\nallocation P50 / P99 / max  {times}"


def record_serving(requests: int = 400, threads: int = 4, seed: int = 0) -> list[TraceEvent]:
    """Serve lists of tensors of mixed sizes through models of mixed widths, from several threads; return what it asked.

    Args:
        requests: lists of 2 to 48 tensors, of 1 to 64 rows of 768 to 2,560 floats each; all rows of a list are joined.
        threads: that serve them.
        seed: of the sizes. The order in which threads come to the pool is that of the run.
    """
    whole_number("requests", requests, 1)
    events: list[TraceEvent] = []
    pool = BufferPool(log=lambda number, num_bytes: events.append(TraceEvent(number, num_bytes)))
    memory = EngineMemory(pool=pool, min_pooled_bytes=ALIGN)
    config = BatchingConfig(initial=MAX_INPUTS * MAX_INPUT_ROWS, min_rows=MAX_INPUTS * MAX_INPUT_ROWS)
    models = [BatchProcessor(nn.Linear(features, 8), config, memory=memory) for features in FEATURES]

    def serve(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        which = draw.randrange(len(models))
        count = draw.randint(2, MAX_INPUTS)
        models[which].run([torch.zeros(draw.randint(1, MAX_INPUT_ROWS), FEATURES[which]) for _ in range(count)])

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(serve, range(requests)))
    pool.statistics()  # frees, and so records, what was given back last
    return events


def replay(trace: Iterable[TraceEvent], pool: BufferPool) -> TraceFigures:
    """Ask a pool for the buffers of a trace, and give them back, in its order.

    >>> events = [TraceEvent(1, 100), TraceEvent(2, 50), TraceEvent(1, None), TraceEvent(3, 90), TraceEvent(3, None)]
    >>> replay(events, BufferPool()).statistics.hits
    1
    """
    live: dict[int, Buffer] = {}
    times: list[float] = []
    for event in trace:
        if event.num_bytes is None:
            live.pop(event.number).release()
            continue
        begin = time.perf_counter()
        live[event.number] = pool.allocate(event.num_bytes)
        times.append(1e3 * (time.perf_counter() - begin))
    ordered: Sequence[float] = sorted(times) or [0.0]
    p50, p99, most = (quantile([*ordered], share) for share in (0.5, 0.99, 1.0))
    return TraceFigures(pool.statistics(), p50, p99, most)


def serving_figures(requests: int = 400, threads: int = 4, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> TraceFigures:
    """Record a serving run, and return what a fresh pool makes of it."""
    return replay(record_serving(requests, threads), BufferPool(limit_bytes))
