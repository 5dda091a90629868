"""Ternary weights in the blocks of GGUF's types, from canonical i2 bytes, code by code and without loss.

TQ2_0 (id 35)   256 codes: 64 bytes, then the scale in float16. Code 128 g + 32 l + m lies in bits 2 l of byte 32 g + m.
Q2_0 (id 42)    64 codes: the scale in float16, then 16 bytes. Code j lies in bits 2 (j % 4) of byte j / 4, as in i2.

Codes are w + 1 in both, as in i2. (ggml/src/ggml-common.h and ggml-quants.c of llama.cpp)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.packing.i2 import I2


def tq2_0(w_packed: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return i2 bytes (N, K / 4) and the scales of blocks (N, K / 256) as blocks, uint8 (N, K / 256 * 66)."""
    rows = len(w_packed)
    digits = np.stack(I2.digits(w_packed.reshape(rows, -1, 2, 4, 8)), -1).reshape(rows, -1, 2, 4, 32)
    codes = I2.join([digits[:, :, :, place] for place in range(4)]).reshape(rows, -1, 64)
    return np.concatenate((codes, as_bytes(scales)), -1).reshape(rows, -1)


def q2_0(w_packed: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return i2 bytes (N, K / 4) and the scales of blocks (N, K / 64) as blocks, uint8 (N, K / 64 * 18)."""
    rows = len(w_packed)
    return np.concatenate((as_bytes(scales), w_packed.reshape(rows, -1, 16)), -1).reshape(rows, -1)


def as_bytes(scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return float16 (N, blocks) as uint8 (N, blocks, 2), the lower byte first."""
    return np.ascontiguousarray(scales.astype("<f2")).view(np.uint8).reshape(*scales.shape, 2)


@dataclass(frozen=True)
class BlockType:
    """A type of GGUF for ternary weights.

    Attributes:
        name: as ggml spells it.
        number: its id in files.
        block: codes in one block.
        encode: (i2 bytes (N, K / 4), float16 scales (N, K / block)) -> uint8 (N, bytes of a row).
    """

    name: str
    number: int
    block: int
    encode: Callable[[NDArray[np.uint8], NDArray[np.float16]], NDArray[np.uint8]]

    @property
    def bits(self) -> float:
        """Return the bits per weight, the scale among them."""
        return 2 + 16 / self.block


TQ2_0 = BlockType("TQ2_0", 35, 256, tq2_0)
Q2_0 = BlockType("Q2_0", 42, 64, q2_0)


def choose_type(
    in_features: tuple[int, ...], group_size: int, known: Callable[[BlockType], bool] = lambda kind: True
) -> BlockType:
    """Return the type for weights of so many inputs: TQ2_0, or Q2_0 where groups or inputs do not fill its blocks.

    Where Q2_0 is not known, TQ2_0 stands in for it if inputs fill its blocks: a block has the scale of its first group.

    Args:
        in_features: of the layers.
        group_size: inputs that share a scale; 0 is one scale per weight.
        known: tells whether a program reads a type.

    Raises:
        ValueError: neither fits.
    """
    fitting = [kind for kind in (TQ2_0, Q2_0) if all(features % kind.block == 0 for features in in_features)]
    exact = [kind for kind in fitting if group_size % kind.block == 0]
    for kind in (*exact, *fitting):
        if known(kind):
            return kind
    raise ValueError(f"GGUF's ternary types need inputs and groups in multiples of 64, got {in_features}, {group_size}")


def block_scales(
    w_scale: NDArray[np.float32], kind: BlockType, shape: tuple[int, int], group_size: int
) -> NDArray[np.float16]:
    """Spread scales () or (N, K / group_size) over the blocks of a weight (N, K): float16 (N, K / block), rounded.

    Blocks that are larger than groups have the scale of their first one.

    Raises:
        ValueError: a scale is beyond float16.
    """
    with np.errstate(over="ignore"):
        scales = w_scale.astype(np.float16)
    if not np.all((scales > 0) & np.isfinite(scales)):
        raise ValueError("w_scale: GGUF's blocks hold float16, and a scale is out of its range")
    rows, blocks = shape[0], shape[1] // kind.block
    if w_scale.ndim == 0:
        return np.full((rows, blocks), scales)
    if kind.block > group_size:
        return np.ascontiguousarray(scales[:, :: kind.block // group_size])
    return np.repeat(scales, group_size // kind.block, 1)
