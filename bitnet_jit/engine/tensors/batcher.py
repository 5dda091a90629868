"""`BatchProcessor`: many inputs of any number of rows through a module, in batches whose size is found meanwhile."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from threading import Lock

import torch
from torch import nn

from bitnet_jit.arguments import whole_number
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.tensors.batch_size import BatchingConfig, SizeSearch
from bitnet_jit.engine.tensors.infer import MAX_ROW_DIMS, check_module, device_of, forward_rows, is_out_of_memory
from bitnet_jit.engine.tensors.memory_used import memory_used
from bitnet_jit.engine.tensors.rows import Piece, Rows
from bitnet_jit.errors import OutOfMemory


@dataclass(frozen=True)
class SizePerformance:
    """What batches of one size took.

    Attributes:
        size: rows of a batch at most; it has at least three quarters of them.
        batches, rows: how many there were, and their rows.
        rows_per_second: the median of the last ones; 0 before they are measured again.
        milliseconds: per batch, likewise.
    """

    size: int
    batches: int
    rows: int
    rows_per_second: float
    milliseconds: float


@dataclass(frozen=True)
class BatchPerformance:
    """How a `BatchProcessor` has done so far.

    Attributes:
        batch_size: rows of the next batch.
        settled: whether that size has been compared with its neighbours.
        batches, rows: of all runs, those of partly filled batches, too.
        seconds: that modules took for them, with joining and cutting.
        out_of_memory: batches that did not fit and were run again in halves.
        sizes: the sizes that were measured, in order.
    """

    batch_size: int
    settled: bool
    batches: int
    rows: int
    seconds: float
    out_of_memory: int
    sizes: tuple[SizePerformance, ...]

    @property
    def rows_per_second(self) -> float:
        """Return the rows per second over all batches; 0 before the first one."""
        return self.rows / self.seconds if self.seconds else 0.0


class BatchProcessor:
    """Runs inputs through a module in batches; rows that come back are those that went in, in order.

    Several threads may use one processor; they learn together.

    Args:
        module: as in `infer_batch`: it treats every row by itself.
        config: limits of the size; None: the defaults.
        row_dims: dimensions of a row, as in `infer_batch`.
        used: returns the share of memory in use; None: that of the module's device.
        memory: as in `infer_batch`.

    Raises:
        InvalidInput: as `infer_batch`.

    >>> processor = BatchProcessor(nn.Linear(8, 3), BatchingConfig(initial=4))
    >>> [tuple(y.shape) for y in processor.run([torch.ones(5, 8), torch.ones(8), torch.ones(2, 4, 8)])]
    [(5, 3), (3,), (2, 4, 3)]
    >>> processor.performance().rows
    14
    """

    def __init__(
        self,
        module: nn.Module,
        config: BatchingConfig | None = None,
        *,
        row_dims: int = 1,
        used: Callable[[], float] | None = None,
        memory: EngineMemory = DEFAULT_MEMORY,
    ) -> None:
        check_module(module)
        self.module, self._memory = module, memory
        self._row_dims = whole_number("row_dims", row_dims, 1, MAX_ROW_DIMS)
        self._search = SizeSearch(config or BatchingConfig(), used or (lambda: memory_used(device_of(self.module))))
        self._lock = Lock()
        self._batches, self._rows, self._seconds = 0, 0, 0.0

    @property
    def batch_size(self) -> int:
        """Return the rows that the next batch has at most."""
        return self._search.size

    def run(self, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what the module makes of each input, as `infer_batch` does.

        Raises:
            InvalidInput: as `infer_batch`; nothing has been run.
            OutOfMemory: not even one row fits.
        """
        check_module(self.module)
        rows, place = Rows(xs, self._row_dims), device_of(self.module)
        with torch.inference_mode():
            while pieces := rows.take(self._search.size):
                begin = time.perf_counter()
                refusal = self._run_batch(rows, pieces, place)
                self._learn(rows.taken, time.perf_counter() - begin, refusal)
                if refusal is not None:
                    rows.rewind(pieces)
                    self._memory.trim()  # smaller batches need no buffer of this size
        return rows.outputs()

    async def run_async(self, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what `run` does, in a thread: the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.run, xs)

    def _run_batch(self, rows: Rows, pieces: list[Piece], place: torch.device | None) -> str | None:
        """Run a batch and keep its output; return the reason where memory was short, whose tensors are freed then."""
        try:
            buffers = forward_rows(self.module, rows, pieces, place, self._memory)
            rows.put(pieces, self._memory.finish(buffers))
            if place is not None:  # a batch has taken its time when its work is done
                with kind_of(place).current(place):
                    kind_of(place).synchronize()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error)
        return None

    def _learn(self, rows: int, seconds: float, refusal: str | None) -> None:
        """Tell the search of a batch. Raises OutOfMemory where a batch of one row, or none, did not fit."""
        with self._lock:
            if refusal is None:
                self._batches, self._rows, self._seconds = self._batches + 1, self._rows + rows, self._seconds + seconds
                self._search.record(rows, seconds)
                return
            self._search.fail(rows)
        if rows <= 1:
            raise OutOfMemory(f"xs: the device has too little memory for a batch of one row ({refusal})")

    def performance(self) -> BatchPerformance:
        """Return how batches of each size have done so far."""
        with self._lock:
            search = self._search
            sizes = tuple(
                SizePerformance(
                    size,
                    measured.batches,
                    measured.rows,
                    median(measured.rates) if measured.rates else 0.0,
                    1e3 * median(measured.seconds) if measured.seconds else 0.0,
                )
                for size, measured in sorted(search.measured.items())
            )
            totals = self._batches, self._rows, self._seconds
            return BatchPerformance(search.size, search.settled, *totals, search.out_of_memory, sizes)
