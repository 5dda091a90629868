"""Providers of row-wise work: our ops, the same formulas in plain torch operations and compiled, torch's rms_norm.

The features are the shape's inputs; bytes are those of every tensor read and written once.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import rms_norm

import bitnet_jit.ops  # noqa: F401  registers torch.ops.bitnet_jit
from benchmarks.harness.contender import Contender, Provider
from benchmarks.harness.options import Defaults
from benchmarks.harness.work import Work
from bitnet_jit import reference
from bitnet_jit.kernels.torch.norm import norm_gradients, norm_rows, quantize_rows

EPS = 1e-5
SUMS = 1e-6  # relative error of float32 sums in another order
FLIPS = 1e-3  # of codes, a few of which may differ by one (reference.codes_agree says which)
HALF_FLIPS = 2e-3  # of bfloat16 outputs, that are rounded from such sums
CODE_BYTES = 1

Op = Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


def norm_weight(work: Work) -> NDArray[np.float32]:
    """Return a weight (K,) of values that the work's dtype can hold."""
    weight = torch.linspace(0.5, 1.5, work.shape.in_features)
    return weight.to(work.dtype).float().numpy()


def build(name: str, op: Op, inputs: int, codes: bool, work: Work, copies: int) -> Contender:
    """Build `op(*inputs, weight)` on copies of its inputs, each (M, K) of the work's dtype."""
    arrays = input_arrays(work, inputs)
    tensors = [[torch.from_numpy(a).to(work.device, work.dtype) for a in arrays] for _ in range(copies)]
    tensors = [[tensor.clone() for tensor in group] for group in tensors]
    weight = torch.from_numpy(norm_weight(work)).to(work.device, work.dtype)
    last: Any = None

    def run(number: int) -> None:
        nonlocal last
        last = op(*tensors[number % copies], weight)

    def result() -> NDArray[Any]:
        first = last[0] if isinstance(last, tuple) else last
        return first.cpu().numpy() if codes else first.float().cpu().numpy()

    return Contender(name, run, result, num_bytes(inputs, codes, work), 0, torch.set_num_threads)


def input_arrays(work: Work, inputs: int) -> list[NDArray[np.float32]]:
    """Return x, and for two inputs another one."""
    return [work.x, np.ascontiguousarray(work.x[:, ::-1])][:inputs]


def num_bytes(inputs: int, codes: bool, work: Work) -> int:
    float_bytes = work.dtype.itemsize
    return work.x.size * (inputs * float_bytes + (CODE_BYTES if codes else float_bytes))


def provider(
    name: str,
    op: Op,
    inputs: int,
    expected: Callable[..., Any],
    tolerance: float,
    codes: bool,
) -> Provider:
    """Return a provider; `expected(*inputs, weight)` gives the right answer in NumPy."""

    def answer(work: Work) -> NDArray[Any]:
        return expected(*input_arrays(work, inputs), norm_weight(work))

    size, half_tolerance = partial(num_bytes, inputs, codes), None if codes else HALF_FLIPS
    make = partial(build, name, op, inputs, codes)
    return Provider(name, make, answer, tolerance, size, half_tolerance=half_tolerance)


def compiled(op: Op, inputs: int, expected: Callable[..., Any], tolerance: float, codes: bool) -> Provider:
    """Return a provider that runs such operations through torch.compile, on a GPU."""

    def unsupported_reason(work: Work) -> str | None:
        return None if torch.device(work.device).type == "cuda" else f"is measured on a GPU, not on {work.device}"

    def make(work: Work, copies: int) -> Contender:
        return build("torch_compiled", torch.compile(op), inputs, codes, work, copies)

    return replace(
        provider("torch_compiled", op, inputs, expected, tolerance, codes),
        build=make,
        unsupported_reason=unsupported_reason,
    )


def both(ours: Op, plain: Op, inputs: int, expected: Callable[..., Any], tolerance: float, codes: bool = True):
    """Return our op and plain torch operations, as they are and compiled."""
    case = (inputs, expected, tolerance, codes)
    fused = (inputs, expected, max(tolerance, FLIPS) if codes else tolerance, codes)  # which rounds its own way
    return [provider("bitnet_jit", ours, *case), provider("torch_plain", plain, *case), compiled(plain, *fused)]


OPS = torch.ops.bitnet_jit
PROVIDERS: dict[str, list[Provider]] = {
    "quantize_activation": both(
        lambda x, w: OPS.quantize_activation(x),
        lambda x, w: quantize_rows(x.float()),
        1,
        lambda x, w: reference.quantize_activation(x)[0],
        0,
    ),
    "rms_norm": [
        *both(
            lambda x, w: OPS.rms_norm(x, w, EPS),
            lambda x, w: norm_rows(x.float(), w, EPS).to(x.dtype),
            1,
            lambda x, w: reference.rms_norm(x, w, EPS),
            SUMS,
            codes=False,
        ),
        provider(
            "torch_rms_norm",
            lambda x, w: rms_norm(x, w.shape, w, EPS),
            1,
            lambda x, w: reference.rms_norm(x, w, EPS),
            SUMS,
            codes=False,
        ),
    ],
    "rms_norm_quantize": both(
        lambda x, w: OPS.rms_norm_quantize(x, w, EPS),
        lambda x, w: quantize_rows(norm_rows(x.float(), w, EPS)),
        1,
        lambda x, w: reference.rms_norm_quantize(x, w, EPS)[0],
        FLIPS,
    ),
    "rms_norm_gradients": both(
        lambda dy, x, w: OPS.rms_norm_gradients(dy, x, w, EPS),
        lambda dy, x, w: norm_gradients(dy, x, w, EPS),
        2,
        lambda dy, x, w: reference.rms_norm_gradients_float64(dy, x, w, EPS)[0].astype(np.float32),
        SUMS,
        codes=False,
    ),
    "silu_mul_norm_quantize": both(
        lambda gate, up, w: OPS.silu_mul_norm_quantize(gate, up, None, 0.0),
        lambda gate, up, w: quantize_rows(torch.nn.functional.silu(gate.float()) * up.float()),
        2,
        lambda gate, up, w: reference.silu_mul_norm_quantize(gate, up, None, 0.0)[0],
        FLIPS,
    ),
    "relu2_mul_norm_quantize": both(
        lambda gate, up, w: OPS.relu2_mul_norm_quantize(gate, up, w, EPS),
        lambda gate, up, w: quantize_rows(norm_rows(gate.float().relu() ** 2 * up.float(), w, EPS)),
        2,
        lambda gate, up, w: reference.relu2_mul_norm_quantize(gate, up, w, EPS)[0],
        FLIPS,
    ),
}
DEFAULTS = {
    "cpu": Defaults(("bitnet_jit", "torch_plain", "torch_rms_norm"), "norms"),
    "cuda": Defaults(
        ("bitnet_jit", "torch_compiled", "torch_rms_norm"), "norms", (1, 16, 2048, 8192), 1, ("hot",), (1,)
    ),
}
