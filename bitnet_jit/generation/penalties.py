"""The tokens of requests with penalties, and what they take from logits.

Only logits of tokens that occurred change, so a step reads and writes those alone, not the whole vocabulary. The tokens
of a request lie in a line of `history`, once for each time; a token that stands there twice is written twice, with the
same value. How often it occurred is in a line of `tally`, 4 bytes per token of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.generation.sampling import Sampling

PROMPT, OUTPUT = 1, 2  # an entry of the tally is 1 for a token of the prompt, plus 2 for each time in the new text
MIN_HISTORY = 64


def to_device(values: object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return numbers as a tensor on a device, without waiting for the device."""
    return torch.tensor(values, dtype=dtype, device="cpu").to(device, non_blocking=True)


@dataclass(frozen=True)
class Penalties:
    """The penalties of p rows of a batch.

    Attributes:
        rows: (p, 1) int64, the rows.
        slots: (p, 1) int64, the lines of the tally.
        numbers: the lines as Python's numbers.
        repetition, frequency, presence: (p, 1) float32.
    """

    rows: torch.Tensor
    slots: torch.Tensor
    numbers: tuple[int, ...]
    repetition: torch.Tensor
    frequency: torch.Tensor
    presence: torch.Tensor


class Tally:
    """The tokens of all requests with penalties, a line for each.

    Args:
        vocab_size: number of tokens.
        device: where the logits are.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._tally = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)
        self._history = torch.zeros(0, MIN_HISTORY, dtype=torch.int64, device=device)
        self._lengths: list[int] = []
        self._free: list[int] = []

    def add(self, options: Sampling, prompt: Sequence[int]) -> int:
        """Return the number of a line that holds the prompt, where its tokens count."""
        tokens = list(prompt) if options.repetition_penalty != 1 else []
        if not self._free:
            self._grow(2 * len(self._lengths) + 1)
        slot = self._free.pop()
        self._reserve(len(tokens))
        line = to_device(tokens, torch.int64, self._device)
        self._history[slot, : len(tokens)] = line
        self._tally[slot].zero_()[line] = PROMPT
        self._lengths[slot] = len(tokens)
        return slot

    def remove(self, slot: int) -> None:
        """Give a line back."""
        self._free.append(slot)

    def note(self, places: Sequence[int], slots: Sequence[int], tokens: torch.Tensor) -> None:
        """Append tokens (n,) int64 at `places` to the lines `slots`; a line may be named several times."""
        columns = []
        for slot in slots:
            columns.append(self._lengths[slot])
            self._lengths[slot] += 1
        self._reserve(max(columns) + 1)
        place, line, column = to_device([places, slots, columns], torch.int64, self._device).unbind(0)
        chosen = tokens[place]
        self._history[line, column] = chosen
        twos = torch.full_like(chosen, OUTPUT, dtype=torch.int32)
        self._tally.index_put_((line, chosen), twos, accumulate=True)

    def penalize(self, logits: torch.Tensor, penalties: Penalties) -> None:
        """Change logits (n, V) float32 in place."""
        length = max(self._lengths[slot] for slot in penalties.numbers)
        tokens = self._history[penalties.slots[:, 0], :length]  # (p, length); 0 behind a line's end, which is harmless:
        occurred = self._tally[penalties.slots, tokens]  # what is written depends on the token alone
        count = (occurred >> 1).to(torch.float32)
        values = logits[penalties.rows, tokens]
        repeated = torch.where(values > 0, values / penalties.repetition, values * penalties.repetition)
        values = torch.where(occurred > 0, repeated, values)
        values = values - penalties.frequency * count
        values = values - penalties.presence * (count > 0)
        logits[penalties.rows, tokens] = values

    def _grow(self, lines: int) -> None:
        """Make room for more lines."""
        old = len(self._lengths)
        for name in ("_tally", "_history"):
            grown = getattr(self, name).new_zeros(lines, getattr(self, name).shape[1])
            grown[:old] = getattr(self, name)
            setattr(self, name, grown)
        self._free += range(old, lines)
        self._lengths += [0] * (lines - old)

    def _reserve(self, length: int) -> None:
        """Make room for lines of so many tokens."""
        if length > self._history.shape[1]:
            grown = self._history.new_zeros(len(self._lengths), 2 * length)
            grown[:, : self._history.shape[1]] = self._history
            self._history = grown
