"""`embedding`: the rows of token ids in a table, y = table[id], or table[id] * table_scale[id] of int8.

A program writes one row; an id outside of the table gives NaN.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.problem import Problem

BLOCK = 4096  # features of a row at a time, at most


@triton.jit
def embedding_kernel(
    ids_ptr,  # (M,) int64 or int32
    table_ptr,  # (N, K) float or int8
    scale_ptr,  # (N,) float32, of a table of int8
    y_ptr,  # (M, K) float
    N,
    K: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids_ptr + row).to(tl.int64)
    inside = (token >= 0) & (token < N)
    token = tl.where(inside, token, 0)
    scale = 1.0
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + token)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        x = tl.load(table_ptr + token * K + k, mask=k < K, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            x = x * scale
        x = tl.where(inside, x, float("nan"))
        tl.store(y_ptr + row * K + k, x.to(y_ptr.dtype.element_ty), mask=k < K)


def bind(problem: Problem, config: Config) -> Bound:
    """Bind ids (M,), table (N, K), table_scale (N,) or None -> y (M, K)."""
    block = min(BLOCK, max(256, triton.next_power_of_2(problem.in_features)))
    operands = ("ids", "table", "table_scale" if problem.w_dtype == "int8" else None, "y")
    constants = {
        "N": problem.out_features,
        "K": problem.in_features,
        "PDL": target.supports_pdl(problem.gpu),
        "BLOCK": block,
    }
    return Bound(lambda m: (Launch(embedding_kernel, m, operands, constants, min(8, block // 256)),))


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return None alone: there is nothing to choose."""
    return (None,)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.embedding", "embedding", bind, configs, unsupported_reason),)
