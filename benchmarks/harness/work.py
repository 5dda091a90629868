"""Work of a benchmark: a weight's shape, a number of rows and a device, with inputs and right answers."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.shapes import Shape
from bitnet_jit import reference

SEED = 20240227


@lru_cache(maxsize=1)
def ternary_codes(shape: Shape) -> NDArray[np.int8]:
    """Draw the codes (N, K) of a weight; the last ones are kept, because many numbers of rows ask for them."""
    rng = np.random.default_rng(SEED)
    return rng.integers(-1, 2, (shape.out_features, shape.in_features), dtype=np.int8)


@lru_cache(maxsize=1)
def codes_on(shape: Shape, device: str) -> torch.Tensor:
    """Return the codes (N, K) int8 of a weight on a device, kept likewise; nobody may write there."""
    return torch.from_numpy(ternary_codes(shape)).to(device)


@dataclass(frozen=True)
class Work:
    """One shape with a number of rows, on one device; the data are drawn when first asked for, always the same.

    Attributes:
        shape: of the weight; row-wise work uses the inputs only.
        rows: M.
        device: in torch's words.
    """

    shape: Shape
    rows: int
    device: str = "cpu"

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """Draw activations (M, K); on a GPU they are values of bfloat16, the dtype that contenders take there."""
        rng = np.random.default_rng(SEED + self.rows)
        x = rng.standard_normal((self.rows, self.shape.in_features), dtype=np.float32)
        return x if self.device == "cpu" else as_bfloat16(x)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of row-wise work: float32 on the CPU, bfloat16 elsewhere."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @property
    def w_q(self) -> NDArray[np.int8]:
        """Return the ternary codes (N, K)."""
        return ternary_codes(self.shape)

    @property
    def w_scale(self) -> np.float32:
        return np.float32(0.02)

    @property
    def w_codes(self) -> torch.Tensor:
        """Return the ternary codes (N, K) as int8 on the device."""
        return codes_on(self.shape, self.device)

    @property
    def w(self) -> torch.Tensor:
        """Return the weight (N, K) float32 on the device: codes times scale."""
        return self.w_codes.float() * float(self.w_scale)

    @cached_property
    def codes(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Quantize x: x_q (M, K) and x_scale (M,)."""
        return reference.quantize_activation(self.x)

    @cached_property
    def acc(self) -> NDArray[np.int32]:
        """Compute the sums (M, N): a float32 matmul of whole numbers is exact up to 2^24, and fast."""
        assert 128 * self.shape.in_features < 2**24
        return self.product(self.codes[0], self.w_codes).astype(np.int32)

    @cached_property
    def y(self) -> NDArray[np.float32]:
        """Compute the layer's output (M, N) by the numeric contract."""
        return self.acc.astype(np.float32) * (self.codes[1][:, None] * self.w_scale)

    @property
    def y_bfloat16(self) -> NDArray[np.float32]:
        """Return the layer's output (M, N) rounded to bfloat16."""
        return as_bfloat16(self.y)

    @cached_property
    def y_unquantized(self) -> NDArray[np.float32]:
        """Compute the output (M, N) with the activations as they are."""
        return self.product(self.x, self.w)

    def product(self, a: NDArray[Any], w: torch.Tensor) -> NDArray[np.float32]:
        """Multiply a (M, K) @ w (N, K).T in float32: by NumPy on the CPU, elsewhere by torch on the device."""
        if self.device == "cpu":
            return a.astype(np.float32) @ w.float().numpy().T
        return (torch.from_numpy(a).to(self.device).float() @ w.float().T).cpu().numpy()

    @property
    def num_ops(self) -> int:
        """Count the multiplications and additions of the matmul."""
        return 2 * self.rows * self.shape.out_features * self.shape.in_features


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round values to bfloat16 and return them as float32."""
    return torch.from_numpy(values).bfloat16().float().numpy()
