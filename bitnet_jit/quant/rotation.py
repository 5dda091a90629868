"""`SignedBlocks`: the rotation of a folded weight's input as files hold it, by signs and the size of a block."""

from dataclasses import dataclass

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.problem import MAX_BLOCK

ROTATION = "rotation"  # the name of a rotation beside a weight, in layers and in files of ours


@dataclass(frozen=True, eq=False)
class SignedBlocks:
    """The rotation H (signs * x) per run of `block` inputs; see `bitnet_jit.nn.rotation.Rotation`.

    Attributes:
        signs: (K,) float32, each 1 or -1.
        block: inputs that are mixed, a power of two that divides K.

    >>> print(SignedBlocks(torch.ones(8), 4))
    a rotation of 8 inputs in blocks of 4
    """

    signs: torch.Tensor
    block: int

    def __post_init__(self) -> None:
        """Raise InvalidInput unless the signs are that, in whole blocks."""
        check_signs(self.signs, check_block(self.block))

    def __str__(self) -> str:
        return f"a rotation of {self.in_features} inputs in blocks of {self.block}"

    @property
    def in_features(self) -> int:
        """Return K."""
        return len(self.signs)

    def same_as(self, other: "SignedBlocks | None") -> bool:
        """Return whether another rotation does the same."""
        return other is self or (
            other is not None and other.block == self.block and torch.equal(other.signs.cpu(), self.signs.cpu())
        )


def check_block(block: int) -> int:
    """Return the size of a block as a Python int; raise InvalidInput unless it is a power of two within its limit."""
    size = as_whole(block)
    if size is None or not 1 <= size <= MAX_BLOCK or size.bit_count() != 1:
        raise InvalidInput(f"block: expected a power of two from 1 to {MAX_BLOCK}, got {show(block)}")
    return size


def check_signs(signs: torch.Tensor, block: int) -> torch.Tensor:
    """Return signs as float32; raise InvalidInput unless they are (K,) of 1 and -1, in whole blocks."""
    if not isinstance(signs, torch.Tensor) or signs.dim() != 1 or not len(signs) or len(signs) % block:
        got = tuple(signs.shape) if isinstance(signs, torch.Tensor) else show(signs)
        raise InvalidInput(f"signs: expected (K,) with K a multiple of block={block}, got {got}")
    if not signs.is_floating_point() or not (signs.is_meta or bool((signs.abs() == 1).all())):
        other = signs.dtype if not signs.is_floating_point() else signs[signs.abs() != 1][0].item()
        raise InvalidInput(f"signs: expected floats that are 1 or -1, got {other}")
    return signs.detach().float().contiguous()
