"""Rows of many inputs: joined into batches in their order, and outputs cut to the inputs' shapes again."""

from collections.abc import Sequence

import torch

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput

Piece = tuple[int, int, int]  # number of an input, its first row in a batch, the row behind the last one


class Rows:
    """The rows of inputs that wait for a module, and the outputs of those that it has run.

    Args:
        xs: tensors (..., *row) of one shape of a row, one dtype and one device.
        row_dims: dimensions of a row; those before it count rows.

    Attributes:
        taken: rows of the batch that was taken last.
        device: of the inputs; None where there are none.

    Raises:
        InvalidInput: an input is no tensor, has too few dimensions, or is unlike the first one.

    >>> rows = Rows([torch.ones(2, 4), torch.zeros(3, 4), torch.ones(4)])
    >>> while pieces := rows.take(4):
    ...     rows.put(pieces, 2 * torch.cat(rows.parts(pieces))[:, :1])
    >>> [y.flatten().tolist() for y in rows.outputs()]
    [[2.0, 2.0], [0.0, 0.0, 0.0], [2.0]]
    """

    def __init__(self, xs: Sequence[torch.Tensor], row_dims: int = 1) -> None:
        check_alike(xs, row_dims)
        self._shapes = [x.shape for x in xs]  # each property of a tensor takes 0.1 us: read once
        self._row_dims = row_dims
        self._xs = [
            x if len(shape) == row_dims + 1 else as_rows(x, row_dims) for x, shape in zip(xs, self._shapes, strict=True)
        ]
        self._counts = [
            shape[0] if len(shape) == row_dims + 1 else shape[: len(shape) - row_dims].numel() for shape in self._shapes
        ]
        self._outputs: list[torch.Tensor | None] = [None] * len(self._xs)
        self._next = (0, 0)  # input and row with which the next batch begins
        self.taken = 0
        self.device = xs[0].device if xs else None

    def take(self, size: int, alone: int | None = None) -> list[Piece]:
        """Return the pieces of the next batch; none when all rows have been taken.

        Args:
            size: rows of a batch at most. An input that does not fit is cut where the batch is less than 3/4 full.
            alone: inputs of so many rows are batches by themselves, whole; None: none are.
        """
        pieces: list[Piece] = []
        counts, (index, start), taken = self._counts, self._next, 0
        while index < len(counts):
            rows = counts[index] - start
            if alone is not None and rows >= alone:
                if not pieces:
                    pieces, index, taken = [(index, start, start + rows)], index + 1, rows
                break
            if taken + rows > size:
                if 4 * taken >= 3 * size:
                    break
                pieces.append((index, start, start + size - taken))
                start, taken = start + size - taken, size
                break
            pieces.append((index, start, start + rows))
            index, start, taken = index + 1, 0, taken + rows
        self._next, self.taken = (index, start), taken
        return pieces

    def rewind(self, pieces: list[Piece]) -> None:
        """Have the rows of the last batch wait again: it could not be run."""
        self._next = pieces[0][:2]

    def parts(self, pieces: list[Piece]) -> list[torch.Tensor]:
        """Return the rows of a batch, (rows, *row), for each input that they are of."""
        return [
            self._xs[index] if stop - start == self._counts[index] else self._xs[index][start:stop]
            for index, start, stop in pieces
        ]

    def put(self, pieces: list[Piece], y: torch.Tensor) -> None:
        """Keep the output (rows, ...) of a batch; whole inputs get views of it."""
        parts = (y,) if len(pieces) == 1 else y.split([stop - start for _, start, stop in pieces])
        for (index, start, stop), part in zip(pieces, parts, strict=True):
            if stop - start == self._counts[index]:
                self._outputs[index] = part
                continue
            output = self._outputs[index]
            if output is None:
                output = self._outputs[index] = part.new_empty((self._counts[index], *part.shape[1:]))
            output[start:stop] = part

    def outputs(self) -> list[torch.Tensor]:
        """Return the output of every input, (..., *row of the output)."""
        outputs = []
        for y, shape in zip(self._outputs, self._shapes, strict=True):
            assert y is not None, "an input has not been run"
            leading = len(shape) - self._row_dims
            outputs.append(y if leading == 1 else y.reshape(*shape[:leading], *y.shape[1:]))
        return outputs


def as_rows(x: torch.Tensor, row_dims: int) -> torch.Tensor:
    """Return a tensor (..., *row) as (rows, *row)."""
    leading = x.dim() - row_dims
    return x.reshape(x.shape[:leading].numel(), *x.shape[leading:])


def check_alike(xs: Sequence[torch.Tensor], row_dims: int) -> None:
    """Raise InvalidInput unless all are tensors whose rows can be joined."""
    if not isinstance(xs, Sequence):
        raise InvalidInput(f"xs: expected a sequence of tensors, got {show(xs)}")
    like: tuple[torch.Size, torch.dtype, torch.device] | None = None
    same: torch.Size | None = None  # the shape of the input before, which was right
    for index, x in enumerate(xs):
        if not isinstance(x, torch.Tensor):
            raise InvalidInput(f"xs[{index}]: expected a tensor, got {show(x)}")
        shape = x.shape
        if like is not None and shape == same and x.dtype is like[1] and x.device == like[2]:
            continue
        if len(shape) < row_dims:
            raise InvalidInput(f"xs[{index}]: expected at least {row_dims} dimensions, got shape {tuple(shape)}")
        kind = shape[len(shape) - row_dims :], x.dtype, x.device
        if like is None:
            like = kind
        elif kind != like:
            raise InvalidInput(f"xs[{index}]: expected {in_words(*like)} as xs[0] has, got {in_words(*kind)}")
        same = shape


def in_words(row: torch.Size, dtype: torch.dtype, device: torch.device) -> str:
    """Return what a row is like.

    >>> in_words(torch.Size([4]), torch.float32, torch.device("cpu"))
    'rows (4,) of torch.float32 on cpu'
    """
    return f"rows {tuple(row)} of {dtype} on {device}"
