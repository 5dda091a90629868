"""Row-wise work: our ops against the same formulas in plain torch operations, and torch's own rms_norm.

The features are the shape's inputs; bytes are those of every tensor read and written once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import rms_norm

import bitnet_jit.ops  # noqa: F401  registers torch.ops.bitnet_jit
from bitnet_jit import reference
from bitnet_jit.kernels.torch.norm import norm_rows, quantize_rows
from work import Contender, Provider, Work

EPS = 1e-5
SUMS = 1e-6  # relative error of float32 sums in another order
FLIPS = 1e-3  # of codes, a few of which may differ by one (reference.codes_agree says which)
FLOAT_BYTES, CODE_BYTES = 4, 1

Op = Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


def norm_weight(work: Work) -> NDArray[np.float32]:
    return np.linspace(0.5, 1.5, work.shape.in_features, dtype=np.float32)


def build(name: str, op: Op, inputs: int, codes: bool, work: Work, copies: int) -> Contender:
    """`op(*inputs, weight)` on copies of its inputs, each (M, K) float32."""
    tensors = [[torch.from_numpy(a).to(work.device) for a in input_arrays(work, inputs)] for _ in range(copies)]
    tensors = [[tensor.clone() for tensor in group] for group in tensors]
    weight = torch.from_numpy(norm_weight(work)).to(work.device)
    last: Any = None

    def run(number: int) -> None:
        nonlocal last
        last = op(*tensors[number % copies], weight)

    def result() -> NDArray[Any]:
        return (last[0] if codes else last).cpu().numpy()

    return Contender(name, run, result, num_bytes(inputs, codes, work), 0, torch.set_num_threads)


def input_arrays(work: Work, inputs: int) -> list[NDArray[np.float32]]:
    """x, and for two inputs another one."""
    return [work.x, np.ascontiguousarray(work.x[:, ::-1])][:inputs]


def num_bytes(inputs: int, codes: bool, work: Work) -> int:
    return work.x.size * (inputs * FLOAT_BYTES + (CODE_BYTES if codes else FLOAT_BYTES))


def provider(name: str, op: Op, inputs: int, expected: Callable[..., Any], tolerance: float, codes: bool) -> Provider:
    """`expected(*inputs, weight)` gives the right answer in NumPy."""

    def answer(work: Work) -> NDArray[Any]:
        return expected(*input_arrays(work, inputs), norm_weight(work))

    return Provider(name, partial(build, name, op, inputs, codes), answer, tolerance, partial(num_bytes, inputs, codes))


def both(ours: Op, plain: Op, inputs: int, expected: Callable[..., Any], tolerance: float, codes: bool = True):
    """Our op and plain torch operations."""
    return [
        provider("bitnet_jit", ours, inputs, expected, tolerance, codes),
        provider("torch_plain", plain, inputs, expected, tolerance, codes),
    ]


OPS = torch.ops.bitnet_jit
PROVIDERS: dict[str, list[Provider]] = {
    "quantize_activation": both(
        lambda x, w: OPS.quantize_activation(x),
        lambda x, w: quantize_rows(x),
        1,
        lambda x, w: reference.quantize_activation(x)[0],
        0,
    ),
    "rms_norm": [
        *both(
            lambda x, w: OPS.rms_norm(x, w, EPS),
            lambda x, w: norm_rows(x, w, EPS),
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
        lambda x, w: quantize_rows(norm_rows(x, w, EPS)),
        1,
        lambda x, w: reference.rms_norm_quantize(x, w, EPS)[0],
        FLIPS,
    ),
    "relu2_mul_norm_quantize": both(
        lambda gate, up, w: OPS.relu2_mul_norm_quantize(gate, up, w, EPS),
        lambda gate, up, w: quantize_rows(norm_rows(gate.relu() ** 2 * up, w, EPS)),
        2,
        lambda gate, up, w: reference.relu2_mul_norm_quantize(gate, up, w, EPS)[0],
        FLIPS,
    ),
}
USUAL = ("bitnet_jit", "torch_plain", "torch_rms_norm")
