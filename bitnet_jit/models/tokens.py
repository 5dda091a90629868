"""Prompts as token ids: the forms that callers may pass, and the errors for all others."""

from collections.abc import Sequence
from itertools import chain

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput

TokenIds = torch.Tensor | Sequence[int] | Sequence[Sequence[int]]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def as_batch(input_ids: TokenIds, vocab_size: int, room: int, device: torch.device) -> torch.Tensor:
    """Check token ids and return them as int64 (B, T) on `device`.

    Args:
        input_ids: (T,) or (B, T), a tensor of integers or lists of them; the prompts of a batch have one length.
        vocab_size: ids lie below it.
        room: limit of T.
        device: where the result lives.

    Raises:
        InvalidInput: another shape or dtype, no token at all, too many, or an id out of range.
    """
    ids = input_ids if isinstance(input_ids, torch.Tensor) else from_lists(input_ids)
    if ids.dtype not in INTEGERS or ids.dim() not in (1, 2):
        raise InvalidInput(
            f"input_ids: expected integers (T,) or (B, T) of int64, int32, int16 or uint8, got {ids.dtype} "
            f"{tuple(ids.shape)}"
        )
    if ids.numel() == 0:
        raise InvalidInput(f"input_ids: expected at least one token, got the shape {tuple(ids.shape)}")
    batch = ids.reshape(-1, ids.shape[-1])
    if batch.shape[1] > room:
        raise InvalidInput(f"input_ids: {batch.shape[1]} tokens, but the model's context has room for {room}")
    check_range(batch, vocab_size)  # where it is: on a GPU each of its numbers would be waited for
    return batch.to(device, torch.int64)


def check_range(batch: torch.Tensor, vocab_size: int) -> None:
    """Raise InvalidInput where an id is not below vocab_size; compiled code sees no values and asserts it."""
    expected = f"input_ids: expected ids from 0 to {vocab_size - 1}"
    if torch.compiler.is_compiling():
        torch._assert_async(((batch >= 0) & (batch < vocab_size)).all(), expected)
        return
    low, high = int(batch.min()), int(batch.max())
    if low < 0 or high >= vocab_size:
        raise InvalidInput(f"{expected}, got {low if low < 0 else high}")


def from_lists(input_ids: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
    """Return lists as a tensor; InvalidInput where prompts differ in length or an item is no whole number."""
    if not isinstance(input_ids, (list, tuple)):
        raise InvalidInput(f"input_ids: expected a tensor or lists of integers, got {type(input_ids).__name__}")
    nested = [isinstance(row, (list, tuple)) for row in input_ids]
    rows: list[Sequence[object]] = list(input_ids) if any(nested) and all(nested) else [input_ids]  # type: ignore[arg-type]
    ids = [[as_whole(token) for token in row] for row in rows]
    for token, number in zip(chain(*rows), chain(*ids), strict=True):
        if number is None or abs(number) >= 2**62:
            raise InvalidInput(f"input_ids: expected whole numbers, got {show(token)}")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InvalidInput(
            f"input_ids: the prompts of a batch must have one length, got {', '.join(map(str, lengths))}; "
            "generate them one by one"
        )
    return torch.tensor(ids if all(nested) and nested else ids[0], dtype=torch.int64, device="cpu")
