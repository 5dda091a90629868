"""What a benchmark runs: a piece of work with its numbers and right answers, and who competes at it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitnet_jit import reference
from shapes import Shape

SEED = 20240227


@lru_cache(maxsize=1)
def ternary_codes(shape: Shape) -> NDArray[np.int8]:
    """(N, K) codes of a weight; the last one is kept, because it is asked for with many numbers of rows."""
    rng = np.random.default_rng(SEED)
    return rng.integers(-1, 2, (shape.out_features, shape.in_features), dtype=np.int8)


@lru_cache(maxsize=1)
def codes_on(shape: Shape, device: str) -> torch.Tensor:
    """(N, K) int8 codes of a weight on a device, kept likewise; nobody may write there."""
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
        """(M, K) activations; on a GPU such as bfloat16 can hold, which is what contenders take there."""
        rng = np.random.default_rng(SEED + self.rows)
        x = rng.standard_normal((self.rows, self.shape.in_features), dtype=np.float32)
        return x if self.device == "cpu" else as_bfloat16(x)

    @property
    def dtype(self) -> torch.dtype:
        """Of row-wise work: float32 on the CPU, bfloat16 elsewhere."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @property
    def w_q(self) -> NDArray[np.int8]:
        """(N, K) ternary codes."""
        return ternary_codes(self.shape)

    @property
    def w_scale(self) -> np.float32:
        return np.float32(0.02)

    @property
    def w_codes(self) -> torch.Tensor:
        """(N, K) ternary codes as int8 on the device."""
        return codes_on(self.shape, self.device)

    @property
    def w(self) -> torch.Tensor:
        """(N, K) float32 on the device, what the codes and the scale stand for."""
        return self.w_codes.float() * float(self.w_scale)

    @cached_property
    def codes(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """x_q (M, K) and x_scale (M,)."""
        return reference.quantize_activation(self.x)

    @cached_property
    def acc(self) -> NDArray[np.int32]:
        """(M, N), exact: a float32 matmul of whole numbers is, up to 2^24, and far faster than an integer one."""
        assert 128 * self.shape.in_features < 2**24
        return self.product(self.codes[0], self.w_codes).astype(np.int32)

    @cached_property
    def y(self) -> NDArray[np.float32]:
        """(M, N), the layer's output by the numeric contract."""
        return self.acc.astype(np.float32) * (self.codes[1][:, None] * self.w_scale)

    @property
    def y_bfloat16(self) -> NDArray[np.float32]:
        """(M, N), the layer's output in bfloat16."""
        return as_bfloat16(self.y)

    @cached_property
    def y_unquantized(self) -> NDArray[np.float32]:
        """(M, N), the output with the activations as they are."""
        return self.product(self.x, self.w)

    def product(self, a: NDArray[Any], w: torch.Tensor) -> NDArray[np.float32]:
        """a (M, K) @ w (N, K).T in float32: by NumPy on the CPU, elsewhere by torch on the device."""
        if self.device == "cpu":
            return a.astype(np.float32) @ w.float().numpy().T
        return (torch.from_numpy(a).to(self.device).float() @ w.float().T).cpu().numpy()

    @property
    def num_ops(self) -> int:
        """Multiplications and additions of the matmul."""
        return 2 * self.rows * self.shape.out_features * self.shape.in_features


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values rounded to bfloat16, as float32."""
    return torch.from_numpy(values).bfloat16().float().numpy()


@dataclass(frozen=True)
class Contender:
    """A provider bound to a piece of work.

    Attributes:
        run: does the work once, on the weight copy of that number (any whole number).
        result: what the last run gave, as a NumPy array.
        num_bytes: read from memory in one run: the packed weight, or all tensors of row-wise work.
        num_ops: multiplications and additions in one run; 0 where nobody counts them.
        set_threads: how many CPU threads the next runs take.
        max_calls: in a turn; limits run long and need few.
        copies: of the weight, which runs take in turn.
    """

    name: str
    run: Callable[[int], Any]
    result: Callable[[], NDArray[Any]]
    num_bytes: int
    num_ops: int
    set_threads: Callable[[int], None]
    max_calls: int = 2000
    copies: int = 1


@dataclass(frozen=True)
class Provider:
    """One way to do the work.

    Attributes:
        name: as in --providers.
        build: (work, copies of the weight) -> Contender.
        expected: work -> the right answer.
        tolerance: largest relative error in the Frobenius norm; 0 asks for equality bit for bit.
        half_tolerance: the same where work is done in bfloat16, if it differs.
        num_bytes: work -> what Contender.num_bytes will be, before it is built.
        unsupported_reason: work -> None, or why it cannot be done.
    """

    name: str
    build: Callable[[Work, int], Contender]
    expected: Callable[[Work], NDArray[Any]]
    tolerance: float
    num_bytes: Callable[[Work], int]
    unsupported_reason: Callable[[Work], str | None] = field(default=lambda _: None)
    half_tolerance: float | None = None


def wrong_reason(provider: Provider, contender: Contender, work: Work) -> str | None:
    """Run once and compare: None where the result is right, else what is wrong with it."""
    contender.run(0)
    result, expected = contender.result(), provider.expected(work)
    if result.shape != expected.shape:
        return f"wrong result: shape {result.shape}, expected {expected.shape}"
    in_halves = provider.half_tolerance is not None and work.dtype == torch.bfloat16
    tolerance = provider.half_tolerance if in_halves else provider.tolerance
    if tolerance == 0:
        different = np.count_nonzero(result != expected)
        return f"wrong result: {different} of {result.size} values differ" if different else None
    error = np.linalg.norm((result - expected).astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))
    if not error <= tolerance:
        return f"wrong result: relative error {error:.2g}, at most {tolerance:.2g} is allowed"
    return None
