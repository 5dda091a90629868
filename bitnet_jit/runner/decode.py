"""Decode steps that are captured once: one token for each of some sequences, in memory that stays where it is.

A step of a few tokens is hundreds of short kernels, and launching them one by one takes Python longer than they run, or
a good part of that. So each number of rows is captured on first use: as a graph where the device has them, for a power
of two of rows; else as a list of bound kernels (`ops/program.py`), for just so many rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.models.paged_store import PagedStore, Places
from bitnet_jit.ops.greedy import Largest, greedy
from bitnet_jit.ops.program import record
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.step_numbers import StepNumbers

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network
    from bitnet_jit.runner.paged_cache import PagedCache

MAX_ROWS = 256  # of a captured step
MAX_STEPS = 16  # that are kept
Key = TypeVar("Key")
Made = TypeVar("Made")


class Scores(NamedTuple):
    """The logits of a step, and what is known of them.

    Attributes:
        logits: (R, vocab_size) float32.
        largest: of each row; None where nobody has looked.
    """

    logits: torch.Tensor
    largest: Largest | None


class DecodeStep:
    """A captured step.

    A graph ends with the largest logits, whose tokens and positions are those of its next run: a token that is chosen
    so is not copied. On a CPU the sampler finds them faster.

    Args:
        network: the network.
        cache: the pages.
        rows: sequences at most.
        width: pages per sequence at most.
    """

    def __init__(self, network: "Network", cache: "PagedCache", rows: int, width: int) -> None:
        device = network.device
        self._goes_on = kind_of(device).capture is not None
        self._numbers = StepNumbers(rows, width, device, self._goes_on)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        numbers = self._numbers
        places = Places(numbers.positions, starts, numbers.tables, numbers.slots)
        # kept, as a graph knows the addresses of its tensors and does not own them
        self._store = PagedStore(cache.pages, network.rope.rotary(width * PAGE, device), places, cache.states)
        self._numbers.load([])
        self._replay, self._scores = capture(lambda: self._forward(network), device)

    def run(self, sequences: Sequence[PagedSequence], tokens: torch.Tensor) -> Scores:
        """Run a step; `tokens` (R,) are on the device; return the scores of R rows, valid until the next step."""
        if tokens.data_ptr() != self._tokens.data_ptr():
            self._tokens[: len(tokens)].copy_(tokens)
        self._numbers.load(sequences)
        self._replay()
        if self._goes_on:
            self._numbers.advanced()
        logits, largest = self._scores
        return Scores(logits[: len(tokens)], None if largest is None else largest.first(len(tokens)))

    def _forward(self, network: "Network") -> Scores:
        """Run the network on what the step's tensors hold."""
        logits = network.run_to_logits(self._tokens, self._store)
        if not self._goes_on:
            return Scores(logits, None)
        values, codes = greedy(logits, self._tokens, self._store.places.positions)
        return Scores(logits, Largest(values, self._tokens, codes))


def capture(forward: Callable[[], Made], device: torch.device) -> tuple[Callable[[], object], Made]:
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

    def run(self, network: "Network", sequences: Sequence[PagedSequence], tokens: torch.Tensor) -> Scores:
        """Run a step of one token per sequence; see `DecodeStep.run`."""
        rows = len(sequences) if kind_of(network.device).records else 1 << (len(sequences) - 1).bit_length()
        key = rows, THREADS.get()  # of the CPU; on other devices steps are few, and this seldom changes
        make = partial(DecodeStep, network, self._cache, rows, self._width)
        return kept_step(self._steps, key, MAX_STEPS, make).run(sequences, tokens)


def kept_step(steps: dict[Key, Made], key: Key, most: int, make: Callable[[], Made]) -> Made:
    """Return the captured step of a key, made where it is not kept; the one used longest ago makes room for it."""
    step = steps.pop(key, None)
    if step is None:
        while len(steps) >= most:
            del steps[next(iter(steps))]
        with torch.inference_mode(False):  # tensors that are made in it cannot be written to outside
            step = make()
    steps[key] = step
    return step
