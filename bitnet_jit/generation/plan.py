"""The rows of a batch, sorted by what their options ask for, as tensors on the device. A plan serves while rows stay.

Rows that take the largest of unchanged logits are in no part: they cost nothing beyond that search. On a GPU a part
holds all rows that go the same way; on the CPU each row is a part of its own, since one row's logits stay in the second
cache.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.generation.draw import ONE, Limits, share_words
from bitnet_jit.generation.edits import Edits, make_edits, needs_edits
from bitnet_jit.generation.logprobs import Place, Wanted, wanted
from bitnet_jit.generation.penalties import to_device
from bitnet_jit.generation.sampling import Sampling

SHORT = 1024  # tokens: up to so many are selected, beyond all are sorted
LOWEST, HIGHEST = 2.0**-126, 2.0**127  # temperatures as float32


@dataclass(frozen=True)
class Request:
    """One row of a running batch.

    Attributes:
        options: its own, with a seed.
        slot: its line of the tally if it has penalties.
        is_masked: whether each choice comes with a mask of the tokens that may be chosen.
    """

    options: Sampling
    slot: int | None
    is_masked: bool = False


@dataclass(frozen=True)
class Part:
    """Rows that go the same way.

    Attributes:
        place: of the rows in the batch.
        edits: changes of their logits, or None.
        limits: what they are drawn by; None takes the largest logit.
        masks: where their masks stand among those of the batch, or None.
    """

    place: Place
    edits: Edits | None
    limits: Limits | None
    masks: Place | None = None


@dataclass(frozen=True)
class Plan:
    """A batch of requests.

    Attributes:
        requests: of each row.
        parts: of all rows but the plainest.
        wanted: rows that ask for log-probabilities.
        number: the largest number of log-probabilities that a row asks for; None where none does.
        is_drawn: whether a row needs random bits.
        num_masks: rows that have a mask.
    """

    requests: tuple[Request, ...]
    parts: tuple[Part, ...]
    wanted: tuple[Wanted, ...]
    number: int | None
    is_drawn: bool
    num_masks: int = 0


def make_plan(requests: Sequence[Request], vocab_size: int, device: torch.device) -> Plan:
    """Return the plan of a batch."""
    kinds, numbers = defaultdict(list), {}
    masks: dict[int, int] = {}
    for row, request in enumerate(requests):
        options = request.options
        way, edited = way_of(options, vocab_size), needs_edits(options)
        if way != "largest" or edited or request.is_masked:
            kinds[way, edited, request.is_masked].append(row)
        if request.is_masked:
            masks[row] = len(masks)
        if options.logprobs is not None:
            numbers[row] = options.logprobs
    parts = [
        make_part(rows, requests, (way, edited), masks, vocab_size, device)
        for (way, edited, _), together in kinds.items()
        for rows in divided(together, device)
    ]
    asking = [
        wanted(place_of(rows, device), [numbers[row] for row in rows], device)
        for rows in divided(list(numbers), device)
    ]
    number = max(numbers.values(), default=None)
    is_drawn = any(part.limits is not None for part in parts)
    return Plan(tuple(requests), tuple(parts), tuple(asking), number, is_drawn, len(masks))


def way_of(options: Sampling, vocab_size: int) -> str:
    """Return in which way a token is chosen; it depends on the options alone, so that its bits do, too."""
    if options.temperature == 0:
        return "largest"
    if options.top_k is not None and options.top_k <= min(SHORT, vocab_size):
        return "few"
    if options.top_p not in (None, 1) or (options.top_k or vocab_size) < vocab_size:
        return "sorted"
    return "by id"


def divided(rows: list[int], device: torch.device) -> list[list[int]]:
    """Return the rows that are worked on together."""
    if device.type == "cpu":
        return [[row] for row in rows]
    return [rows] if rows else []


def place_of(rows: Sequence[int], device: torch.device) -> Place:
    """Return the place of rows in a batch: a slice, which copies nothing, where they are neighbours."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return to_device(rows, torch.int64, device)


def make_part(
    rows: Sequence[int],
    requests: Sequence[Request],
    kind: tuple[str, bool],
    masks: Mapping[int, int],
    vocab_size: int,
    device: torch.device,
) -> Part:
    """Return the part of some rows of a batch that go one way.

    Args:
        rows: those of the part.
        requests: of the whole batch.
        kind: in which way a token is chosen, and whether options change logits.
        masks: row -> where its mask stands, for rows that have one.
        vocab_size, device: of the logits.
    """
    (way, edited), members = kind, [requests[row] for row in rows]
    options = [request.options for request in members]
    edits = make_edits(options, [request.slot for request in members], device) if edited else None
    limits = None if way == "largest" else make_limits(options, way, vocab_size, device)
    lines = [masks[row] for row in rows if row in masks]
    return Part(place_of(rows, device), edits, limits, place_of(lines, device) if lines else None)


def make_limits(options: Sequence[Sampling], way: str, vocab_size: int, device: torch.device) -> Limits:
    """Return what rows are drawn by, as tensors."""
    temperatures = [[min(max(item.temperature, LOWEST), HIGHEST)] for item in options]
    least = [[int((item.min_p or 0) * ONE)] for item in options]
    temperature = to_device(temperatures, torch.float32, device)
    min_p = to_device(least, torch.int64, device) if any(number for (number,) in least) else None
    if way == "by id":
        return Limits(temperature, min_p=min_p)
    counts = [min(item.top_k or vocab_size, vocab_size) for item in options]
    shares = [share_words(1.0 if item.top_p is None else item.top_p) for item in options]
    top_k = None if len(set(counts)) == 1 else to_device([[count] for count in counts], torch.int64, device)
    top_p = None if set(shares) == {share_words(1.0)} else to_device(shares, torch.int64, device)
    return Limits(temperature, max(counts), top_k, top_p, min_p)
