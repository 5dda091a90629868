"""`Rotation`: the rotation of a packed layer's input, whose weight was folded with a Hadamard transform.

A folded layer holds codes of V, and computes y = V H (signs * x), per run of `block` inputs. The matrix that multiplies
x itself, W = V H diag(signs), is no longer ternary: codes stay as they are, and the input is rotated.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.hadamard import hadamard, inverse_hadamard
from bitnet_jit.quant.rotation import ROTATION, SignedBlocks, check_block, check_signs

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

    def stored(self) -> SignedBlocks:
        """Return the rotation as files hold it."""
        return SignedBlocks(self.signs, self.block)

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
    return cast("Rotation | None", layer._modules.get(ROTATION))


def stored_rotation(layer: nn.Module) -> SignedBlocks | None:
    """Return the rotation of a layer's input as files hold it, None where there is none."""
    return None if (rotation := rotation_of(layer)) is None else rotation.stored()


def signs_of(stored: torch.Tensor, block: int, in_features: int) -> torch.Tensor:
    """Return the signs (K,) that a state_dict has as (K / block, block); raise InvalidInput where it has others."""
    shape = (in_features // block, block)
    if tuple(stored.shape) != shape:
        raise InvalidInput(f"{SIGNS}: expected {shape} for blocks of {block}, got {tuple(stored.shape)}")
    return check_signs(stored.reshape(-1), block)
