"""`EngineMemory`: the pool and the copies of an engine, as those who run modules use them."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.devices.copies import Copies
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.memory.buffers import InferenceBuffers
from bitnet_jit.engine.memory.placement import PLACEMENTS, AllocationStrategy
from bitnet_jit.engine.memory.pool import DEFAULT_LIMIT_BYTES, BufferPool
from bitnet_jit.engine.memory.region import PINNED, Source
from bitnet_jit.engine.memory.staging import Staging
from bitnet_jit.engine.memory.statistics import MemoryStats
from bitnet_jit.errors import InvalidInput, OutOfMemory

MIN_POOLED = 2**22  # bytes of joined rows: smaller blocks are used again by the C library itself
MIN_STAGED = 2**18  # bytes of a copy: below, a driver copies small blocks at once, and two events take longer
CPU = torch.device("cpu")
logger = logging.getLogger(__name__)


def copies_of(device: torch.device) -> Copies | None:
    """Return what copies to a device beside its work; None where nothing does, or a graph is being captured."""
    kind = kind_of(device)
    copies: Copies | None = None if kind.copies is None or kind.is_capturing() else kind.copies(device)
    return copies


class EngineMemory:
    """Joins rows in memory that is used again, and moves them to a model and its results back.

    Any number of threads may use it.

    Args:
        limit_bytes: that the pool may hold, page-locked or not. Where it does not suffice, rows are joined and copied
            in memory of torch.
        strategy: where rows wait and results stay.
        min_pooled_bytes: joined rows of so many bytes lie in the pool, fewer in memory of torch.
        pool: holds the memory; None: one of `limit_bytes`.
        copies_of: device -> its `Copies`, or None.
        staging_source: of page-locked memory.

    Raises:
        InvalidInput: a number is no whole one of 0 or more, or strategy is none.

    >>> memory = EngineMemory(min_pooled_bytes=2**18)
    >>> buffers = memory.prepare([torch.ones(2, 40_000), torch.zeros(1, 40_000)], None)
    >>> memory.begin_fetch(buffers, buffers.input.sum(), None)
    >>> memory.finish(buffers), memory.statistics().allocations
    (tensor(80000.), 1)
    """

    def __init__(
        self,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        strategy: AllocationStrategy = AllocationStrategy.AUTOMATIC,
        *,
        min_pooled_bytes: int = MIN_POOLED,
        pool: BufferPool | None = None,
        copies_of: Callable[[torch.device], Copies | None] = copies_of,
        staging_source: Source = PINNED,
    ) -> None:
        if not isinstance(strategy, AllocationStrategy):
            names = ", ".join(f"AllocationStrategy.{one.name}" for one in AllocationStrategy)
            raise InvalidInput(f"strategy: expected one of {names}, got {show(strategy)}")
        self.strategy = strategy
        self.pool = BufferPool(limit_bytes) if pool is None else pool
        self._min_pooled = whole_number("min_pooled_bytes", min_pooled_bytes, 0)
        self.moves_results = PLACEMENTS[strategy].results == "cpu"  # even where inputs are on the model's device
        self._placement = PLACEMENTS[strategy]
        self._staging = Staging(self.pool, staging_source)
        self._copies_of = copies_of
        self._has_told = False

    def prepare(
        self, parts: list[torch.Tensor], place: torch.device | None, rows: int | None = None
    ) -> InferenceBuffers:
        """Return the rows of parts, joined, where a module can read them.

        Args:
            parts: (rows of the part, ...) on one device, alike in the other dimensions and dtype.
            place: the module's device; None: where the parts are.
            rows: of all parts; who knows saves counting them, which takes 0.3 us per part.

        Returns:
            Buffers whose `input` is (rows, ...); of a single part that is there already, the part itself.
        """
        first = parts[0]
        if place is not None and first.device != place:
            return InferenceBuffers(self._bring(parts, place), self.home(first.device, place))
        x = first if len(parts) == 1 else self._join(parts, rows)
        return InferenceBuffers(x, CPU if self.moves_results else None)

    def home(self, inputs: torch.device, place: torch.device) -> torch.device:
        """Return the device on which results for inputs of a device stay, of a model on another one."""
        return {"cpu": CPU, "inputs": inputs, "model": place}[self._placement.results]

    def begin_fetch(self, buffers: InferenceBuffers, y: torch.Tensor, place: torch.device | None) -> None:
        """Begin to move what a module on `place` has made to where it stays; its input may be used again."""
        buffers.input = None
        if buffers.home is None:
            buffers.output = y
            return
        copies = self._copies_for(y.nbytes, place) if buffers.home.type == CPU.type else None
        if copies is not None and copies.holds(y):
            try:
                buffers.staging = self._staging.receive(y, copies)
                return
            except OutOfMemory as error:
                self._tell(error)
        buffers.output = y.to(buffers.home)

    def finish(self, buffers: InferenceBuffers) -> torch.Tensor:
        """Return a result where it stays; wait for it in this thread."""
        if buffers.output is None:
            buffers.output = self._staging.finish(buffers.staging)
        return buffers.output

    def trim(self) -> int:
        """Give all memory back that nobody uses; return its bytes."""
        return self.pool.trim()

    def statistics(self) -> MemoryStats:
        """Return the account of the pool and of the copies through it."""
        operations, num_bytes, seconds = self._staging.account()
        return replace(
            self.pool.statistics(),
            staging_operations=operations,
            transferred_bytes=num_bytes,
            transfer_seconds=seconds,
        )

    def _join(self, parts: list[torch.Tensor], rows: int | None = None) -> torch.Tensor:
        """Return the rows of parts on their device: on the CPU in memory of the pool, where they are large."""
        first = parts[0]
        if first.is_cpu and type(first) is torch.Tensor and first.layout is torch.strided:
            shape = (sum([len(part) for part in parts]) if rows is None else rows, *first.shape[1:])
            num_bytes = math.prod(shape) * first.itemsize
            if num_bytes >= self._min_pooled:
                try:
                    buffer = self.pool.allocate(num_bytes)
                    return torch.cat(parts, out=buffer.tensor(shape, first.dtype))
                except OutOfMemory as error:
                    self._tell(error)
        return torch.cat(parts)

    def _bring(self, parts: list[torch.Tensor], place: torch.device) -> torch.Tensor:
        """Return the rows of parts on another device."""
        if self._placement.joins == "model" and len(parts) > 1:
            return torch.cat([self._bring([part], place) for part in parts])
        copies = self._copies_for(sum(part.nbytes for part in parts), place) if parts[0].is_cpu else None
        if copies is not None:
            try:
                return self._staging.send(parts, copies)
            except OutOfMemory as error:
                self._tell(error)
        return (parts[0] if len(parts) == 1 else self._join(parts)).to(place)

    def _copies_for(self, num_bytes: int, place: torch.device | None) -> Copies | None:
        """Return what copies so many bytes to or from a device beside its work; None where that does not pay."""
        if place is None or num_bytes < MIN_STAGED or not self._placement.staged:
            return None
        return self._copies_of(place)

    def _tell(self, error: OutOfMemory) -> None:
        """Log, once, that torch's memory is used in the pool's place."""
        if not self._has_told:
            self._has_told = True
            logger.info("rows are joined and copied in memory of torch: %s", error)


DEFAULT_MEMORY = EngineMemory()  # of calls that name no other
