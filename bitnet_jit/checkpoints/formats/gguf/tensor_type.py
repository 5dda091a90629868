"""`TensorType`: how one of GGUF's tensor types lays out its numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bitnet_jit.packing.stored import Blocks, Run


@dataclass(frozen=True)
class TensorType:
    """A type of tensors: blocks of numbers that lie next to one another in a row.

    Attributes:
        name: in GGUF's words, such as "TQ2_0".
        block: numbers per block.
        num_bytes: bytes per block.
        runs: of a ternary type with scales of blocks: where the codes of a block lie; empty for others.
        scale_at: of such a type: the byte of a block at which its scale, a float16, begins.
        to_floats: of a type of floats: blocks uint8 (..., num_bytes) -> float32 (..., block), or None.
        dtype: of a type whose bytes are numbers of torch.
        extra: bytes of a tensor behind its blocks.
    """

    name: str
    block: int
    num_bytes: int
    runs: tuple[Run, ...] = ()
    scale_at: int = 0
    to_floats: Callable[[torch.Tensor], torch.Tensor] | None = None
    dtype: torch.dtype | None = None
    extra: int = 0

    @property
    def is_ternary(self) -> bool:
        """Return whether it holds codes with scales."""
        return self.dtype is None and self.to_floats is None

    @property
    def stored(self) -> Blocks:
        """Return how it holds codes; of a ternary type with scales of blocks."""
        return Blocks(self.block, self.num_bytes, self.runs)

    def size(self, count: int) -> int:
        """Return the number of bytes of `count` numbers, which are whole blocks."""
        return count // self.block * self.num_bytes + self.extra
