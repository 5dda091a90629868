"""Decode steps that are captured once: one token for each of some sequences, in memory that stays where it is.

A step of a few tokens is hundreds of short kernels, and launching them one by one takes Python longer than they run, or
a good part of that. So each number of rows is captured on first use: as a graph where the device has them, for a power
of two of rows; else as a list of bound kernels (`ops/program.py`), for just so many rows.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.models.paged_store import PagedStore, Places, aligned
from bitnet_jit.ops.program import record
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.pages import PagedSequence

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network
    from bitnet_jit.runner.paged_cache import PagedCache

MAX_ROWS = 256  # of a captured step
MAX_STEPS = 16  # that are kept
BUFFERS = 2  # of page-locked memory: while one is being copied, the next step fills the other


class DecodeStep:
    """A captured step.

    Args:
        network: the network.
        cache: the pages.
        rows: sequences at most; rows that are not used hold the position -1.
        width: pages per sequence at most.
    """

    def __init__(self, network: "Network", cache: "PagedCache", rows: int, width: int) -> None:
        self._rows, self._next = rows, 0
        device = network.device
        kind = kind_of(device)
        first = aligned(rows)
        numbers = torch.zeros(first + rows * width, dtype=torch.int32, device="cpu")
        self._host = [kind.to_fill(numbers.clone()) for _ in range(BUFFERS)]
        self._numbers = numbers.to(device)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        places = Places(self._numbers[:rows], starts, self._numbers[first:].view(rows, width))
        # kept, as a graph knows the addresses of its tensors and does not own them
        self._store = store = PagedStore(cache.pages, network.rope.rotary(width * PAGE, device), places)
        self._load([], [])
        self._replay, self._logits = capture(lambda: network.logits(network.run(self._tokens, store)), device)

    def run(self, sequences: Sequence[PagedSequence], tokens: torch.Tensor) -> torch.Tensor:
        """Run a step; `tokens` (R,) are on the device; return logits (R, vocab_size), valid until the next step."""
        self._tokens[: len(tokens)].copy_(tokens)
        self._load([sequence.length for sequence in sequences], [sequence.pages for sequence in sequences])
        self._replay()
        logits: torch.Tensor = self._logits[: len(tokens)]
        return logits

    def _load(self, positions: list[int], tables: list[list[int]]) -> None:
        """Copy positions and tables to the device."""
        host = self._host[self._next]
        self._next = (self._next + 1) % BUFFERS
        view = host.numpy()
        view[: len(positions)] = positions
        view[len(positions) : self._rows] = -1
        table_rows = view[aligned(self._rows) :].reshape(self._rows, -1)
        for row, pages in zip(table_rows, tables, strict=False):
            row[: len(pages)] = pages
        self._numbers.copy_(host, non_blocking=True)


def capture(forward: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], object], torch.Tensor]:
    """Capture what a function does on a device; return what does it again, and its result, filled anew each time."""
    by_graph = kind_of(device).capture
    return record(forward) if by_graph is None else by_graph(forward, device)


def can_capture(device: torch.device) -> bool:
    """Return whether `capture` serves a device."""
    return kind_of(device).capture is not None or kind_of(device).records


class DecodeSteps:
    """The captured steps of a runner, by numbers of rows.

    Args:
        cache: the pages.
        width: pages per sequence at most.
    """

    def __init__(self, cache: "PagedCache", width: int) -> None:
        self._cache, self._width = cache, width
        self._steps: dict[tuple[int, int], DecodeStep] = {}  # by rows and threads

    def run(self, network: "Network", sequences: Sequence[PagedSequence], tokens: torch.Tensor) -> torch.Tensor:
        """Run a step of one token per sequence; see `DecodeStep.run`."""
        rows = len(sequences) if kind_of(network.device).records else 1 << (len(sequences) - 1).bit_length()
        key = rows, THREADS.get()  # of the CPU; on other devices steps are few, and this seldom changes
        if key not in self._steps:
            while len(self._steps) >= MAX_STEPS:
                del self._steps[next(iter(self._steps))]
            self._steps[key] = DecodeStep(network, self._cache, rows, self._width)
        return self._steps[key].run(sequences, tokens)
