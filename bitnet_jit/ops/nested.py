"""Ops of rows on nested tensors, whose parts have their own numbers of rows: all rows go through the op together."""

from typing import Any

import torch


def on_all_rows(overload: Any, args: tuple[Any, ...]) -> torch.Tensor:
    """Run an op whose first argument is nested, its parts (..., K), and give back a nested tensor of parts (..., N)."""
    x, *others = args
    if x.layout is torch.jagged:
        y = overload(x.values(), *others)
        return torch.nested.nested_tensor_from_jagged(y, x.offsets(), x.lengths())
    parts = x.unbind()
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    y = overload(rows, *others)
    pieces = y.split([part.shape[:-1].numel() for part in parts])
    return torch.nested.as_nested_tensor(
        [piece.view(*part.shape[:-1], -1) for piece, part in zip(pieces, parts, strict=True)]
    )
