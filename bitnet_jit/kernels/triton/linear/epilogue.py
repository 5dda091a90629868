"""The epilogue: sums to outputs by the contract, y = float32(acc) * (x_scale * w_scale) + bias, each step rounded.

Scales are loaded before the sums are begun, which hides their latency. An operand that a problem lacks is
None: all of them for sums alone (`ternary_matmul`), x_scale for float activations, w_scale for groups, whose scales are
in the sums already.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.target import is_nvidia, supports_pdl
from bitnet_jit.problem import Problem


@triton.jit
def load_x_scale(m, M, x_scale_ptr):
    """Load x_scale (rows, 1); 1 where there is none."""
    x_scale = 1.0
    if x_scale_ptr is not None:
        x_scale = tl.load(x_scale_ptr + m, mask=m < M, other=0.0)[:, None]
    return x_scale


@triton.jit
def load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES: tl.constexpr):
    """Load w_scale (1, outputs) or () and bias (1, outputs); 1 and 0 where there is none."""
    w_scale, bias = 1.0, 0.0
    if w_scale_ptr is not None:
        w_scale = tl.load(w_scale_ptr + n, mask=n < N, other=0.0)[None, :] if ROW_SCALES else tl.load(w_scale_ptr)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    return w_scale, bias


@triton.jit
def store_outputs(y, first_m, m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr):
    """Store sums y (rows, outputs), m from first_m on: int32 as they are where y_ptr is int32, else scaled."""
    if y_ptr.dtype.element_ty != tl.int32:
        y = y.to(tl.float32) * (x_scale * w_scale)
        if bias_ptr is not None:  # adding 0 would turn -0 into 0
            y = y + bias
    y_ptrs = y_ptr + tl.cast(first_m, tl.int64) * N + ((m - first_m)[:, None] * N + n[None, :])
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def weight_unit(problem: Problem) -> float:
    """Return the operand that `unpack.operand` makes of a weight of 1."""
    halves = problem.activation != "a8" and problem.x_dtype in ("bfloat16", "float16")
    return 0.5 if halves and is_nvidia(problem.gpu) else 64.0


def flags(problem: Problem) -> dict[str, bool]:
    """Return the constants that every kernel with this epilogue is compiled for."""
    nvidia, pdl = is_nvidia(problem.gpu), supports_pdl(problem.gpu)
    return {"ROW_SCALES": problem.scale == "row", "ASM": nvidia, "PDL": pdl}


def scale_operands(problem: Problem) -> tuple[str | None, ...]:
    """Return the operands x_scale, w_scale and bias of a problem's epilogue, None where it lacks one."""
    return (
        "x_scale" if problem.activation == "a8" and problem.op != "ternary_matmul" else None,
        "w_scale" if problem.scale in ("tensor", "row") else None,
        "bias" if problem.bias else None,
    )
