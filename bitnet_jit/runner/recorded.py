"""Steps of any chunks, recorded once per shape: a prompt that is read beside texts has many steps of one shape.

What `decode.py` does for steps of one token per sequence, where kernels can be recorded (`ops/program.py`): Python runs
once per shape, and the memory of a step, logits first, stays where it is: fresh pages cost as long as a layer.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from bitnet_jit.devices.threads import THREADS
from bitnet_jit.models.paged_store import PagedStore, Places
from bitnet_jit.ops.program import record
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.decode import kept_step
from bitnet_jit.runner.step import Chunk, Step

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network
    from bitnet_jit.runner.paged_cache import PagedCache

MAX_STEPS = 6  # that are kept


class Shape(NamedTuple):
    """What steps have in common that one record serves: tokens, sequences, rows of logits, threads of the CPU."""

    rows: int
    sequences: int
    wanted: int
    threads: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Shape":
        """Return the shape of a step of chunks."""
        rows, wanted = (sum(numbers) for numbers in zip(*((len(c.tokens), c.wanted) for c in chunks), strict=True))
        return cls(rows, len(chunks), wanted, THREADS.get())


class RecordedStep:
    """A recorded step.

    Args:
        network: the network.
        cache: the pages.
        shape: of the step; logits of one row at least are wanted.
        width: pages per sequence at most.
    """

    def __init__(self, network: "Network", cache: "PagedCache", shape: Shape, width: int) -> None:
        def zeros(*size: int) -> torch.Tensor:
            return torch.zeros(*size, dtype=torch.int32, device=network.device)

        places = Places(zeros(shape.rows) - 1, zeros(shape.sequences + 1), zeros(shape.sequences, width))
        self._tokens, self._wanted = zeros(shape.rows), zeros(shape.wanted)
        self._wants_all = shape.wanted == shape.rows
        self._store = PagedStore(cache.pages, network.rope.rotary(width * PAGE, network.device), places)
        self._replay, logits = record(lambda: self._forward(network))
        self._logits: torch.Tensor = logits

    def run(self, step: Step) -> torch.Tensor:
        """Run a step of this shape; return its logits, valid until the next one."""
        kept, places = self._store.places, step.places
        self._tokens.copy_(step.tokens)
        kept.positions.copy_(places.positions)
        kept.starts.copy_(places.starts)
        kept.tables[:, : places.tables.shape[1]].copy_(places.tables)
        if step.wanted is not None:
            self._wanted.copy_(step.wanted)
        self._replay()
        return self._logits

    def _forward(self, network: "Network") -> torch.Tensor:
        """Run the network on what the step's tensors hold."""
        if self._wants_all:
            return network.run_to_logits(self._tokens, self._store)
        return network.logits(network.run(self._tokens, self._store, self._wanted))


class RecordedSteps:
    """The recorded steps of a runner, by their shapes.

    Args:
        cache: the pages.
        width: pages per sequence at most.
    """

    def __init__(self, cache: "PagedCache", width: int) -> None:
        self._cache, self._width = cache, width
        self._steps: dict[Shape, RecordedStep] = {}

    def run(self, network: "Network", shape: Shape, step: Step) -> torch.Tensor:
        """Run a step of a shape; see `RecordedStep.run`."""
        make = partial(RecordedStep, network, self._cache, shape, self._width)
        return kept_step(self._steps, shape, MAX_STEPS, make).run(step)
