"""Hadamard rotations, butterfly by butterfly: every rounding is fixed, so that all kernels agree bit for bit.

H of B features is the normalized Sylvester-Walsh-Hadamard matrix, H[r, c] = (-1)^popcount(r & c) / sqrt(B). It is
symmetric and its own inverse, and acts on each run of B features of a row:

    hadamard           y = H (signs * x)
    inverse_hadamard   y = signs * (H x)

log2(B) stages run in turn, of the distances 1, 2, 4, ... B / 2: features a and b at that distance become a + b and
a - b, in float32. Then each is multiplied by float32(1 / sqrt(B)). Kernels round once to the dtype of x, after all.
A fused op gives the bits of its steps with float32 between them: nothing is rounded before the rotation.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitnet_jit.reference.rows import F32, add_rms_norm, rms_norm, silu_mul


def hadamard(x: ArrayLike, signs: ArrayLike | None, block: int) -> NDArray[np.float32]:
    """Rotate each run of `block` features of rows, a power of two that divides K.

    Args:
        x: (M, K) floating point; half types are widened to float32 first.
        signs: (K,) of 1 and -1; None stands for ones.
        block: B.

    Returns:
        y (M, K) float32.

    >>> hadamard([[1.0, 2.0, 3.0, 4.0]], [1, -1, 1, 1], 4).tolist()
    [[3.0, 1.0, -4.0, 2.0]]
    """
    wide: NDArray[np.float32] = np.asarray(x, F32)
    return butterflies(wide if signs is None else wide * np.asarray(signs, F32), block)


def inverse_hadamard(x: ArrayLike, signs: ArrayLike | None, block: int) -> NDArray[np.float32]:
    """Undo `hadamard`, up to roundings; the arguments are the same.

    >>> inverse_hadamard([[3.0, 1.0, -4.0, 2.0]], [1, -1, 1, 1], 4).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    y = butterflies(np.asarray(x, F32), block)
    return y if signs is None else y * np.asarray(signs, F32)


def butterflies(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Multiply each run of `block` features of x (M, K) float32 by H."""
    distance, y = 1, x
    with np.errstate(over="ignore", invalid="ignore"):
        while distance < block:
            pairs = y.reshape(x.size // (2 * distance), 2, distance)
            a, b = pairs[:, 0], pairs[:, 1]
            y = np.stack((a + b, a - b), axis=1)
            distance *= 2
        return y.reshape(x.shape) * F32(block**-0.5)


def rms_norm_hadamard(x: ArrayLike, weight: ArrayLike, eps: float, signs: ArrayLike, block: int) -> NDArray[np.float32]:
    """Normalize, then rotate; the norm is not rounded before."""
    return hadamard(rms_norm(x, weight, eps), signs, block)


def add_rms_norm_hadamard(
    x: ArrayLike, delta: ArrayLike, weight: ArrayLike, eps: float, signs: ArrayLike, block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Add delta (M, K) to x (M, K), both float32, and return the sums and their norm, rotated.

    Sums of half types are rounded to their dtype, and the norm is of the rounded sums.
    """
    total, y = add_rms_norm(x, delta, weight, eps)
    return total, hadamard(y, signs, block)


def silu_mul_hadamard(gate: ArrayLike, up: ArrayLike, signs: ArrayLike, block: int) -> NDArray[np.float32]:
    """Compute silu(gate) * up, rotated; the product is not rounded before."""
    return hadamard(silu_mul(gate, up), signs, block)
