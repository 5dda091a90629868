"""`Decoder.encode`: texts -> vectors, many in a step."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.errors import GenerationError
from bitnet_jit.generation.prompts import as_ids, check_texts
from bitnet_jit.models.pooling import Pool, check_pooling
from bitnet_jit.models.tokens import TokenIds
from bitnet_jit.problem import pages_for
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

STEP_TOKENS = 1024  # of texts that share a step; a longer text has several steps


def encode(decoder: "Decoder", texts: Sequence[str | TokenIds], pooling: str | None) -> torch.Tensor:
    """Return the vectors of texts, as `Decoder.encode` does."""
    chosen = check_pooling(pooling, decoder.pooling)
    rows = [as_ids(decoder, number, text) for number, text in enumerate(check_texts(texts))]
    pools = [Pool(chosen) for _ in rows]
    groups = list(grouped([len(row) for row in rows]))
    pages = max(sum(pages_for(len(rows[number])) for number in group) for group in groups)
    runner = decoder.idle_runner.take(decoder, pages, max(map(len, groups)))
    try:
        for group in groups:
            run_group(runner, [rows[number] for number in group], [pools[number] for number in group])
    finally:
        decoder.idle_runner.give(runner)
    if errors := {number: words for number, pool in enumerate(pools) if (words := pool.read())}:
        raise GenerationError(errors, rows)
    return torch.stack([pool.vector for pool in pools if pool.vector is not None])


def grouped(lengths: Sequence[int]) -> Iterator[range]:
    """Yield texts that share a step, one after the other: as many as have STEP_TOKENS together, one at least.

    >>> list(grouped([1000, 20, 5, 3000, 7]))
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    first = total = 0
    for number, length in enumerate(lengths):
        if number > first and total + length > STEP_TOKENS:
            yield range(first, number)
            first, total = number, 0
        total += length
    yield range(first, len(lengths))


def run_group(runner: Runner, rows: Sequence[list[int]], pools: Sequence[Pool]) -> None:
    """Read texts in steps of at most STEP_TOKENS tokens of each, and add their hidden states to their pools."""
    sequences = [runner.cache.new_sequence() for _ in rows]
    try:
        for start in range(0, max(map(len, rows)), STEP_TOKENS):
            left = [number for number, row in enumerate(rows) if start < len(row)]
            parts = [rows[number][start : start + STEP_TOKENS] for number in left]
            pairs = zip(left, parts, strict=True)
            hidden = runner.hidden([Chunk(sequences[number], part, len(part)) for number, part in pairs])
            for number, states in zip(left, hidden.split([len(part) for part in parts]), strict=True):
                pools[number].add(states, start)
    finally:
        for sequence in sequences:
            runner.cache.free(sequence)
