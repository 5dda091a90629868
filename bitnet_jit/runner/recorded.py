"""Steps of any chunks, captured once per shape: a prompt that is read beside texts has many steps of one shape.

What `decode.py` does for steps of one token per sequence. On a CPU the memory of a step, logits first, stays where it
is: fresh pages cost as long as a layer. On a GPU launches alone would take several times as long as a short step; a
graph serves all steps that are a little smaller, too: what they leave is padding, which kernels pass by or compute in
vain.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, product
from typing import TYPE_CHECKING, NamedTuple

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.models.paged_store import PagedStore, Places
from bitnet_jit.problem import PAGE, aligned
from bitnet_jit.runner.decode import capture, kept_step
from bitnet_jit.runner.staged import Staged
from bitnet_jit.runner.step import Chunk, positions_of, wanted_rows

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network
    from bitnet_jit.runner.paged_cache import PagedCache

MAX_STEPS, MAX_GRAPHS = 6, 20  # that are kept: the memory of each is its own
GRAPH_ROWS = (16, 32, 128, 256, 512, 1024)  # of graphs; larger steps take a GPU longer than launches take Python
GRAPH_SEQUENCES = (1, 16, 64, 256)


class Shape(NamedTuple):
    """What one captured step is made for: tokens, sequences, rows of logits, threads of the CPU."""

    rows: int
    sequences: int
    wanted: int
    threads: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Shape":
        """Return the shape of a step of chunks."""
        rows, wanted = (sum(numbers) for numbers in zip(*((len(c.tokens), c.wanted) for c in chunks), strict=True))
        return cls(rows, len(chunks), wanted, THREADS.get())

    def of_graph(self) -> "Shape | None":
        """Return the shape of the graph of such steps, or None: there is none.

        >>> Shape(90, 5, 1, 2).of_graph()
        Shape(rows=128, sequences=16, wanted=16, threads=2)
        >>> Shape(2000, 5, 1, 2).of_graph() is None
        True
        """
        sequences = least_of(GRAPH_SEQUENCES, self.sequences)
        wanted = max(sequences or 0, 1 << (self.wanted - 1).bit_length())
        rows = least_of(GRAPH_ROWS, max(self.rows, wanted))
        return Shape(rows, sequences, wanted, self.threads) if rows and sequences else None


def least_of(sizes: Sequence[int], count: int) -> int | None:
    """Return the least of ascending sizes that is no less than a count, if there is one."""
    return next((size for size in sizes if size >= count), None)


def graphs(most: int) -> Iterator[Shape]:
    """Yield the shapes of the graphs of steps of up to `most` sequences, with one row of logits of each at most."""
    for sequences, rows in product(GRAPH_SEQUENCES, GRAPH_ROWS):
        if rows >= sequences and (sequences <= most or sequences == least_of(GRAPH_SEQUENCES, most)):
            yield Shape(rows, sequences, sequences, THREADS.get())


class StepTensors:
    """The index tensors of the steps of one shape, which stay where they are.

    Args:
        shape: of the steps.
        width: pages per sequence at most.
        device: where they run.

    Attributes:
        tokens: (rows,) int32.
        places: of the tokens; those behind the last one fill the shape up.
        wanted: (wanted,) int32: the rows whose logits are asked, then zeros.
    """

    def __init__(self, shape: Shape, width: int, device: torch.device) -> None:
        sizes = (shape.rows, shape.rows, shape.sequences + 1, shape.wanted, shape.sequences, shape.sequences * width)
        ends = list(accumulate(map(aligned, sizes), initial=0))
        self._staged = Staged(ends[-1], device, kind_of(device).capture is not None)
        self._values = [self._staged.values[end : end + size] for end, size in zip(ends, sizes, strict=False)]
        parts = [self._staged.tensor[end : end + size] for end, size in zip(ends, sizes, strict=False)]
        self.tokens, positions, starts, self.wanted, slots, tables = parts
        self.places = Places(positions, starts, tables.view(shape.sequences, width), slots)

    def load(self, chunks: Sequence[Chunk]) -> None:
        """Have the numbers of a step of chunks on the device; none: a step of padding."""
        counts = [len(chunk.tokens) for chunk in chunks]
        starts = list(accumulate(counts, initial=0))
        lists = (
            (list(chain.from_iterable(chunk.tokens for chunk in chunks)), 0),
            (positions_of(chunks, counts), -1),
            (starts, starts[-1]),
            (wanted_rows(chunks, starts), 0),
            ([chunk.sequence.slot for chunk in chunks], 0),
        )
        for values, (numbers, padding) in zip(self._values, lists, strict=False):
            values[: len(numbers)] = numbers
            values[len(numbers) :] = padding
        for row, chunk in zip(self._values[-1].reshape(self.places.tables.shape), chunks, strict=False):
            row[: len(chunk.sequence.pages)] = chunk.sequence.pages
        self._staged.send()


class RecordedStep:
    """A captured step.

    Args:
        network: the network.
        cache: the pages.
        shape: of the step; logits of one row at least are wanted.
        width: pages per sequence at most.
        has_padding: whether it is to serve smaller steps, too.
    """

    def __init__(self, network: "Network", cache: "PagedCache", shape: Shape, width: int, has_padding: bool) -> None:
        self._tensors = StepTensors(shape, width, network.device)
        self._wants_all = shape.wanted == shape.rows and not has_padding
        rotary = network.rope.rotary(width * PAGE, network.device)
        self._store = PagedStore(cache.pages, rotary, self._tensors.places, cache.states)
        self._tensors.load([])
        self._replay, self._logits = capture(lambda: self._forward(network), network.device)

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Run a step that the shape holds; return its logits, valid until the next one."""
        self._tensors.load(chunks)
        self._replay()
        return self._logits[: sum(chunk.wanted for chunk in chunks)]

    def _forward(self, network: "Network") -> torch.Tensor:
        """Run the network on what the step's tensors hold."""
        if self._wants_all:
            return network.run_to_logits(self._tensors.tokens, self._store)
        return network.logits(network.run(self._tensors.tokens, self._store, self._tensors.wanted))


class RecordedSteps:
    """The captured steps of a runner, by their shapes.

    Args:
        cache: the pages.
        width: pages per sequence at most.
        device: where they run.
    """

    def __init__(self, cache: "PagedCache", width: int, device: torch.device) -> None:
        self._cache, self._width = cache, width
        self._by_graph = kind_of(device).capture is not None
        self._steps: dict[Shape, RecordedStep] = {}
        self._to_come: list[Shape] | None = None

    def shape_of(self, chunks: Sequence[Chunk]) -> Shape | None:
        """Return the shape of the captured step for chunks, or None: it is no use to capture one."""
        shape = Shape.of(chunks)
        if not shape.wanted or not self._by_graph:
            return shape if shape.wanted else None
        return shape.of_graph()

    def capture_next(self, network: "Network", most: int) -> bool:
        """Capture a graph of `graphs` that has not been; return whether one was left."""
        if not self._by_graph:
            return False
        if self._to_come is None:
            self._to_come = list(graphs(most))
        while self._to_come:
            if (shape := self._to_come.pop()) not in self._steps:
                self._kept(network, shape)
                return True
        return False

    def __contains__(self, shape: object) -> bool:
        return shape in self._steps

    def run(self, network: "Network", shape: Shape, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Run a step of a shape; see `RecordedStep.run`."""
        return self._kept(network, shape).run(chunks)

    def _kept(self, network: "Network", shape: Shape) -> RecordedStep:
        make = partial(RecordedStep, network, self._cache, shape, self._width, self._by_graph)
        return kept_step(self._steps, shape, MAX_GRAPHS if self._by_graph else MAX_STEPS, make)
