"""A copy of given codes in rows that kernels can read: padded with zeros to whole chunks, in one of the orders of K."""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.order import place_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import supports_pdl
from bitnet_jit.kernels.triton.layout import CHUNK, padded_inputs
from bitnet_jit.problem import Problem

BLOCK = 1024


@triton.jit
def arrange_kernel(
    x_ptr,  # (M, K) int8
    padded_ptr,  # (M, STRIDE) int8
    K,
    STRIDE,
    CHUNKS: tl.constexpr,  # the order of K: chunks of so many bytes; 0: natural
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    blocks = tl.cdiv(STRIDE, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0)
    tl.store(padded_ptr + row * STRIDE + place_of(k, STRIDE // 4, CHUNKS), x, mask=k < STRIDE)


def launch(problem: Problem, rows: int, chunks: bool) -> Launch:
    """Return the launch x_q (rows, K) int8 -> x_padded (rows, padded_inputs) int8."""
    stride = padded_inputs(problem)
    return Launch(
        arrange_kernel,
        programs=rows * triton.cdiv(stride, BLOCK),
        operands=("x_q", "x_padded"),
        constants={
            "K": problem.in_features,
            "STRIDE": stride,
            "CHUNKS": CHUNK if chunks else 0,
            "PDL": supports_pdl(problem.gpu),
            "BLOCK": BLOCK,
        },
        num_warps=4,
    )
