"""Ops of rows on nested tensors, whose parts have their own numbers of rows: all rows go through the op together."""

from typing import Any

import torch

from bitnet_jit.errors import InvalidInput

MAX_SHOWN = 3  # shapes of parts that an error names


def on_all_rows(overload: Any, args: tuple[Any, ...]) -> torch.Tensor:
    """Run an op whose first argument is nested, its parts (..., K), and give back a nested tensor of parts (..., N).

    Raises:
        InvalidInput: the parts differ in K, or have no dimension.
    """
    x, *others = args
    if x.layout is torch.jagged:
        y = overload(x.values(), *others)
        return torch.nested.nested_tensor_from_jagged(y, x.offsets(), x.lengths())
    parts = x.unbind()
    if (features := {part.shape[-1:] for part in parts}) and len(features) > 1 or () in features:
        raise InvalidInput(
            f"{overload._schema.arguments[0].name}: expected parts (..., K) of one K, "
            f"got a nested tensor of {', '.join(str(tuple(part.shape)) for part in parts[:MAX_SHOWN])}"
        )
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    y = overload(rows, *others)
    pieces = y.split([part.shape[:-1].numel() for part in parts])
    return torch.nested.as_nested_tensor(
        [piece.view(*part.shape[:-1], -1) for piece, part in zip(pieces, parts, strict=True)]
    )
