"""Positions, slots and tables of captured steps: on the device, where they stay, and what the host knows of them.

On a GPU a step raises the positions itself, so that the next token of the same sequences needs no copy but where one of
them begins a page. On a CPU they are written in place.
"""

from collections.abc import Sequence

import numpy as np
import torch

from bitnet_jit.problem import aligned
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.staged import Staged


class StepNumbers:
    """The positions, slots and tables of a step of one token for each of some sequences.

    Args:
        rows: sequences at most; rows that are not used hold the position -1.
        width: pages per sequence at most.
        device: where the step runs.
        raised: whether the step raises positions on the device, which has memory of its own; else it is the CPU.

    Attributes:
        positions: (rows,) int32 on the device.
        slots: (rows,) int32 on the device.
        tables: (rows, width) int32 on the device.
    """

    def __init__(self, rows: int, width: int, device: torch.device, raised: bool) -> None:
        self._rows, self._first = rows, aligned(rows)
        self._staged = Staged(2 * self._first + rows * width, device, raised)
        self._on_device: np.ndarray | None = None  # what the device has, where that is known
        numbers, first = self._staged.tensor, self._first
        self.positions, self.slots = numbers[:rows], numbers[first : first + rows]
        self.tables = numbers[2 * first :].view(rows, width)

    def load(self, sequences: Sequence[PagedSequence]) -> None:
        """Have the numbers of sequences on the device; from then on what it has is not known, until `advanced`."""
        view, count = self._staged.values, len(sequences)
        view[:count] = [sequence.length for sequence in sequences]
        view[count : self._rows] = -1
        view[self._first : self._first + count] = [sequence.slot for sequence in sequences]
        for row, sequence in zip(view[2 * self._first :].reshape(self._rows, -1), sequences, strict=False):
            row[: len(sequence.pages)] = sequence.pages
        known, self._on_device = self._on_device, None
        if known is None or not np.array_equal(known, view):
            self._staged.send()

    def advanced(self) -> None:
        """Note that a step has raised the positions on the device, of rows that are used."""
        after = self._staged.values.copy()
        positions = after[: self._rows]
        positions += positions >= 0
        self._on_device = after
