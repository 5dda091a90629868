"""The states of a decoder's gated DeltaNet layers, which keep all that they know of a text's tokens in a fixed size.

Each sequence has a slot. What a slot holds is of all tokens so far: unlike pages it cannot go back to fewer.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from bitnet_jit.devices.memory import allocating
from bitnet_jit.models.config import DecoderConfig


@dataclass(frozen=True)
class States:
    """The states of a cache, layer by layer.

    Attributes:
        history: (slots, taps - 1, C): the last inputs of the convolution.
        sums: (slots, value_heads, key_dim, value_dim) float32: the sums of values by keys.
    """

    history: Sequence[torch.Tensor]
    sums: Sequence[torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return sum(tensor.nbytes for tensor in (*self.history, *self.sums))

    def copy(self, before: int, after: int) -> None:
        """Copy what one slot holds to another."""
        for tensor in (*self.history, *self.sums):
            tensor[after] = tensor[before]


def bytes_per_slot(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Return the size of one sequence's states; 0 for a decoder without them.

    >>> from bitnet_jit.training.settings import TrainSettings
    >>> bytes_per_slot(TrainSettings().decoder(), torch.float32)
    0
    """
    if (net := config.delta_net) is None:
        return 0
    history = (net.taps - 1) * net.mixed_features * dtype.itemsize
    return net.attends.count(False) * (history + 4 * net.value_features * net.key_dim)


def empty_states(
    words: str, config: DecoderConfig, slots: int, dtype: torch.dtype, device: torch.device
) -> States | None:
    """Allocate the states of so many sequences, not initialized; None for a decoder without them.

    Args:
        words: what is asked for, in an error.
        config: the decoder's.
        slots: sequences at a time.
        dtype: of activations.
        device: where they live.

    Raises:
        InvalidInput: memory does not suffice.
    """
    if (net := config.delta_net) is None:
        return None
    size = slots * bytes_per_slot(config, dtype)
    layers, before = range(net.attends.count(False)), (slots, net.taps - 1, net.mixed_features)
    sums = (slots, net.value_heads, net.key_dim, net.value_dim)
    # torch.compile asks no system for its memory
    checked = nullcontext() if torch.compiler.is_compiling() else allocating(words, size, device.type)
    with checked:
        return States(
            [torch.empty(before, dtype=dtype, device=device) for _ in layers],
            [torch.empty(sums, dtype=torch.float32, device=device) for _ in layers],
        )
