"""`Rotation`: the rotation of a packed layer's input, whose weight was folded with a Hadamard transform.

A folded layer holds codes of V, and computes y = V H (signs * x), per run of `block` inputs. The matrix that multiplies
x itself, W = V H diag(signs), is no longer ternary: codes stay as they are, and the input is rotated.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.hadamard import hadamard, inverse_hadamard
from bitnet_jit.problem import MAX_BLOCK

BEFORE = "rotation"  # the name of the module in a packed layer
SIGNS = "signs"


class Rotation(nn.Module):
    """The rotation H (signs * x) of rows x, per run of `block` features.

    In a `state_dict` signs are (K / block, block), so that they tell the block, too. No conversion of dtypes touches
    them. One rotation may serve several layers.

    Args:
        signs: (K,) floating point, each 1 or -1.
        block: features that are mixed, a power of two that divides K.

    Attributes:
        signs: (K,) float32.
        block: as above.

    Raises:
        InvalidInput: signs are others, or the block does not fit.

    >>> rotation = Rotation(torch.tensor([1.0, -1.0, 1.0, 1.0]), 4)
    >>> rotation(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
    [3.0, 1.0, -4.0, 2.0]
    """

    signs: torch.Tensor

    def __init__(self, signs: torch.Tensor, block: int) -> None:
        super().__init__()
        self.block = check_block(block)
        self.register_buffer(SIGNS, check_signs(signs, self.block))

    @property
    def in_features(self) -> int:
        """Return K."""
        return len(self.signs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate x (..., K) float32, bfloat16 or float16; computed in float32, rounded once to x's dtype."""
        y: torch.Tensor = hadamard(x, self.signs, self.block)
        return y

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate x (..., K) the other way, signs * (H x): rows of a folded weight become those of the unfolded one.

        >>> rotation = Rotation(torch.tensor([1.0, -1.0, 1.0, 1.0]), 4)
        >>> rotation.undo(torch.tensor([3.0, 1.0, -4.0, 2.0])).tolist()
        [1.0, 2.0, 3.0, 4.0]
        """
        y: torch.Tensor = inverse_hadamard(x, self.signs, self.block)
        return y

    def same_as(self, other: "Rotation | None") -> bool:
        """Return whether another rotation does the same."""
        return other is self or (
            other is not None and other.block == self.block and torch.equal(other.signs.cpu(), self.signs.cpu())
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, block={self.block}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Convert as `.to()` and `.half()` do: the device changes, the dtype of signs does not."""
        before = self.signs
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.signs.dtype != before.dtype:
            self.signs = before.to(self.signs.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + SIGNS] = self.signs.view(-1, self.block)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Check signs and their block, and hand them on as they are kept."""
        if (stored := state_dict.get(prefix + SIGNS)) is not None:
            try:
                signs = signs_of(stored, self.block, self.in_features)
            except InvalidInput as error:
                error_msgs.append(f"{prefix}{error}")
                return
            state_dict = {**state_dict, prefix + SIGNS: signs}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def rotation_of(layer: nn.Module) -> Rotation | None:
    """Return the rotation of a layer's input, None where there is none."""
    return cast("Rotation | None", layer._modules.get(BEFORE))


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


def signs_of(stored: torch.Tensor, block: int, in_features: int) -> torch.Tensor:
    """Return the signs (K,) that a state_dict has as (K / block, block); raise InvalidInput where it has others."""
    shape = (in_features // block, block)
    if tuple(stored.shape) != shape:
        raise InvalidInput(f"{SIGNS}: expected {shape} for blocks of {block}, got {tuple(stored.shape)}")
    return check_signs(stored.reshape(-1), block)
