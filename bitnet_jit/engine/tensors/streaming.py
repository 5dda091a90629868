"""What a stream of tensors is told, and what it hands out."""

from dataclasses import dataclass

import torch

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput

MAX_ITEMS = 2**20
MAX_LATENCY_MS = 1e6


@dataclass(frozen=True)
class StreamingConfig:
    """How a stream forms batches and hands out results.

    Attributes:
        buffer_size: items of a batch at most.
        max_latency_ms: milliseconds that the first item of a batch waits for others; 0: batches hold what is there.
        preserve_order: whether results come in the order of their items; else each batch comes when it is done.
        channel_capacity: items that have been read and whose results have not been taken; the source waits beyond.
            At least buffer_size.

    Raises:
        InvalidInput: an attribute is out of range; the message names it.

    >>> StreamingConfig(buffer_size=0)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: buffer_size: expected a whole number of at least 1, got 0
    """

    buffer_size: int = 16
    max_latency_ms: float = 10
    preserve_order: bool = True
    channel_capacity: int = 100

    def __post_init__(self) -> None:
        whole_number("buffer_size", self.buffer_size, 1, MAX_ITEMS)
        whole_number("channel_capacity", self.channel_capacity, self.buffer_size, MAX_ITEMS)
        latency = as_real(self.max_latency_ms)
        if latency is None or not 0 <= latency <= MAX_LATENCY_MS:
            raise InvalidInput(
                f"max_latency_ms: expected 0 to {MAX_LATENCY_MS:.0e} milliseconds, got {show(self.max_latency_ms)}"
            )
        if not isinstance(self.preserve_order, bool):
            raise InvalidInput(f"preserve_order: expected True or False, got {show(self.preserve_order)}")


@dataclass(frozen=True)
class StreamItem:
    """The result of one item of a source.

    Attributes:
        index: its number in the source, from 0.
        output: what the module made of it; None with an error.
        error: what the item met, or the source itself where it broke off; None with an output.
        batch: items that were run together with it, and itself.
        seconds: from when it was read to when its batch was done.
    """

    index: int
    output: torch.Tensor | None
    error: BaseException | None
    batch: int
    seconds: float

    def result(self) -> torch.Tensor:
        """Return the output, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.output is not None
        return self.output
