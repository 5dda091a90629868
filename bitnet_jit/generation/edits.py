"""What options change in the logits of a batch before a token is chosen: bias, penalties, allowed and banned tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.generation.penalties import Penalties, Tally, to_device
from bitnet_jit.generation.sampling import Sampling

Places = tuple[torch.Tensor, torch.Tensor]  # rows and token ids, (m,) int64 each


@dataclass(frozen=True)
class Edits:
    """The changes of n rows. A field is None where no row asks for it.

    Attributes:
        bias: the places of the tokens, and what is added to each, (m,) float32.
        penalties: of the rows that have some.
        allowed: the rows of which only some tokens can be chosen, (m,) int64, and the places of those tokens.
        banned: the places of tokens that cannot be chosen.
    """

    bias: tuple[Places, torch.Tensor] | None
    penalties: Penalties | None
    allowed: tuple[torch.Tensor, Places] | None
    banned: Places | None

    def apply(self, logits: torch.Tensor, tally: Tally) -> None:
        """Change logits (n, V) float32 in place."""
        if self.bias is not None:
            places, values = self.bias
            logits[places] += values
        if self.penalties is not None:
            tally.penalize(logits, self.penalties)
        if self.allowed is not None:
            rows, places = self.allowed
            kept = logits[places]
            logits.index_fill_(0, rows, -math.inf)
            logits[places] = kept
        if self.banned is not None:
            # a number would be copied from the host, which waits for the device
            logits.index_put_(self.banned, logits.new_full((), -math.inf))


def needs_edits(options: Sampling) -> bool:
    """Return whether options change logits."""
    return options.is_penalized or bool(
        options.logit_bias or options.banned_token_ids or options.allowed_token_ids is not None
    )


def make_edits(options: Sequence[Sampling], slots: Sequence[int | None], device: torch.device) -> Edits:
    """Gather the changes of rows.

    Args:
        options: of each row.
        slots: the line of the tally of each row that has penalties, else None.
        device: where the logits are.
    """
    bias = [(row, token, value) for row, item in enumerate(options) for token, value in (item.logit_bias or {}).items()]
    allowed = [(row, token) for row, item in enumerate(options) for token in item.allowed_token_ids or ()]
    banned = [(row, token) for row, item in enumerate(options) for token in item.banned_token_ids]
    values = to_device([value for _, _, value in bias], torch.float32, device)
    rows = to_device(sorted({row for row, _ in allowed}), torch.int64, device)
    return Edits(
        (places_of([(row, token) for row, token, _ in bias], device), values) if bias else None,
        make_penalties(options, slots, device),
        (rows, places_of(allowed, device)) if allowed else None,
        places_of(banned, device) if banned else None,
    )


def places_of(pairs: Sequence[tuple[int, int]], device: torch.device) -> Places:
    """Return pairs of a row and a token as two tensors."""
    rows, tokens = to_device(pairs, torch.int64, device).unbind(-1)
    return rows, tokens


def make_penalties(options: Sequence[Sampling], slots: Sequence[int | None], device: torch.device) -> Penalties | None:
    """Gather the penalties of the rows that have some; None where none has."""
    rows = [row for row, slot in enumerate(slots) if slot is not None]
    if not rows:
        return None
    lines = tuple(slot for slot in slots if slot is not None)
    penalties = [
        (item.repetition_penalty, item.frequency_penalty, item.presence_penalty)
        for item in (options[row] for row in rows)
    ]
    repetition, frequency, presence = to_device(penalties, torch.float32, device)[:, :, None].unbind(1)
    row_column, slot_column = to_device([rows, lines], torch.int64, device)[:, :, None].unbind(0)
    return Penalties(row_column, slot_column, lines, repetition, frequency, presence)
