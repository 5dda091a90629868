"""A step: tokens of any mix of sequences, as the index tensors by which a network finds their keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch

from bitnet_jit.models.paged_store import Places
from bitnet_jit.problem import aligned
from bitnet_jit.runner.pages import PagedSequence


@dataclass(frozen=True)
class Chunk:
    """The tokens that a step adds to one sequence.

    Attributes:
        sequence: the sequence.
        tokens: their ids, one at least.
        wanted: of how many of them, from the last one back, logits are asked.
    """

    sequence: PagedSequence
    tokens: Sequence[int]
    wanted: int = 1


@dataclass(frozen=True)
class Step:
    """The tensors of a step of T tokens.

    Attributes:
        tokens: (T,) int32.
        places: where the tokens lie.
        wanted: (W,) int32: the rows whose logits are asked; None: all of them.
    """

    tokens: torch.Tensor
    places: Places
    wanted: torch.Tensor | None


def make_step(chunks: Sequence[Chunk], device: torch.device) -> Step:
    """Return the step of chunks whose sequences have room for them; its numbers go to the device in one copy."""
    counts = [len(chunk.tokens) for chunk in chunks]
    starts = list(accumulate(counts, initial=0))
    width = max(len(chunk.sequence.pages) for chunk in chunks)
    wanted = wanted_rows(chunks, starts)
    parts = (
        list(chain.from_iterable(chunk.tokens for chunk in chunks)),
        positions_of(chunks, counts),
        starts,
        [page for chunk in chunks for page in padded(chunk.sequence.pages, width)],
        [chunk.sequence.slot for chunk in chunks],
        wanted if len(wanted) < starts[-1] else [],
    )
    tokens, positions, first, tables, slots, rows = tensors_of(parts, device)
    places = Places(positions, first, tables.view(len(chunks), width), slots)
    return Step(tokens, places, rows if len(wanted) < starts[-1] else None)


def tensors_of(parts: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:
    """Return lists of numbers as int32 tensors, which are parts of one and begin at multiples of 16 bytes."""
    lengths = [aligned(len(part)) for part in parts]
    gaps = ([*part, *[0] * (length - len(part))] for part, length in zip(parts, lengths, strict=True))
    numbers = torch.tensor(list(chain.from_iterable(gaps)), dtype=torch.int32, device="cpu").to(device)
    return [piece[: len(part)] for piece, part in zip(numbers.split(lengths), parts, strict=True)]


def positions_of(chunks: Sequence[Chunk], counts: Sequence[int]) -> list[int]:
    """Return the position of each token in its sequence."""
    spans = zip((chunk.sequence.length for chunk in chunks), counts, strict=True)
    return [position for length, count in spans for position in range(length, length + count)]


def wanted_rows(chunks: Sequence[Chunk], starts: Sequence[int]) -> list[int]:
    """Return the rows whose logits are asked."""
    ends = zip(starts[1:], chunks, strict=True)
    return [row for end, chunk in ends for row in range(end - chunk.wanted, end)]


def padded(pages: list[int], width: int) -> list[int]:
    """Return a row of the tables: pages, and zeros that nobody reads."""
    return pages + [0] * (width - len(pages))
