"""The gradient of a ternary layer's input, dX = dY (W * scale): the product with the packed weight transposed.

A program computes `block_m` rows by the four runs of inputs that `block_bytes` packed bytes hold, over all outputs. A
scale for each row of W multiplies dY before the product; a second product takes the part that rounding to dY's dtype
would lose.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.order import first_input, inputs_of
from bitnet_jit.kernels.triton.device.target import is_nvidia
from bitnet_jit.kernels.triton.device.unpack import join_planes
from bitnet_jit.kernels.triton.layout import order, row_bytes
from bitnet_jit.kernels.triton.linear.epilogue import weight_unit
from bitnet_jit.kernels.triton.linear.tiles import fitting, heights, work, x_bytes
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class InputGradConfig:
    """A tile of `block_m` rows by `block_bytes` packed bytes, `block_n` outputs at a time."""

    block_m: int
    block_bytes: int
    block_n: int
    num_warps: int
    num_stages: int

    def shared_memory(self, element_bytes: int) -> int:
        """Return the bytes of shared memory: a pipeline of dY and packed bytes, and W unpacked."""
        pipeline = self.num_stages * self.block_n * (self.block_m * element_bytes + self.block_bytes)
        return pipeline + 4 * self.block_n * self.block_bytes * element_bytes


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def input_grad_kernel(
    dy_ptr,  # (M, N) float
    w_ptr,  # (N, B) uint8: i2
    dx_ptr,  # (M, K) float
    w_scale_ptr,  # () or (N,) float32
    M,
    N,
    K,
    B,
    APART,  # distance of the inputs whose weights share a byte
    CHUNK: tl.constexpr,  # bytes of the layout's chunks, a multiple of BLOCK_B; 0: planes
    WEIGHT: tl.constexpr,  # the operand of a weight of 1
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    b_tiles = tl.cdiv(B, BLOCK_B)
    m = tl.program_id(0) // b_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    first_byte = tl.program_id(0) % b_tiles * BLOCK_B
    packed_byte, outputs = first_byte + tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_N)
    dy_ptrs = dy_ptr + m[:, None].to(tl.int64) * N + outputs[None, :]
    w_ptrs = w_ptr + outputs[:, None].to(tl.int64) * B + packed_byte[None, :]
    TYPE: tl.constexpr = dy_ptr.dtype.element_ty
    acc = tl.zeros((BLOCK_M, 4 * BLOCK_B), tl.float32)
    for start in tl.range(0, N, BLOCK_N, num_stages=STAGES):
        inside = outputs < N - start
        dy = tl.load(dy_ptrs + start, mask=(m < M)[:, None] & inside[None, :], other=0.0)
        packed = tl.load(w_ptrs, mask=inside[:, None] & (packed_byte < B)[None, :], other=0)
        w = join_planes(packed, BLOCK_B, BLOCK_B, TYPE, ASM)
        if ROW_SCALES:
            scale = tl.load(w_scale_ptr + start + outputs, mask=inside, other=0.0)
            scaled = dy.to(tl.float32) * scale[None, :]
            dy = scaled.to(TYPE)
            if tl.float32 != TYPE:
                acc = tl.dot((scaled - dy.to(tl.float32)).to(TYPE), w, acc)
        acc = tl.dot(dy, w, acc, input_precision="ieee")
        w_ptrs += BLOCK_N * B
    dx = acc * (1.0 / WEIGHT)
    if not ROW_SCALES:
        dx = dx * tl.load(w_scale_ptr)
    k = first_input(tl.program_id(0) % b_tiles, BLOCK_B, CHUNK) + inputs_of(BLOCK_B, BLOCK_B, APART, True)
    # a byte behind the last one of a row would lie on the next plane's first
    mask = (first_byte + tl.arange(0, 4 * BLOCK_B) % BLOCK_B < B) & (k < K)
    dx_ptrs = dx_ptr + m[:, None].to(tl.int64) * K + k[None, :]
    tl.store(dx_ptrs, dx.to(TYPE), mask=(m < M)[:, None] & mask[None, :])


def bind(problem: Problem, config: InputGradConfig) -> Bound:
    """Bind dy (M, N), w_packed, w_scale -> dx (M, K) in dy's dtype."""
    num_bytes = row_bytes(problem.in_features)

    def launches(rows: int) -> tuple[Launch, ...]:
        programs = triton.cdiv(rows, config.block_m) * triton.cdiv(num_bytes, config.block_bytes)
        constants = {
            "M": rows,
            "N": problem.out_features,
            "K": problem.in_features,
            "B": num_bytes,
            **order(problem),
            "WEIGHT": weight_unit(problem),
            "ROW_SCALES": problem.scale == "row",
            "ASM": is_nvidia(problem.gpu),
            "BLOCK_M": config.block_m,
            "BLOCK_B": config.block_bytes,
            "BLOCK_N": config.block_n,
            "STAGES": config.num_stages,
        }
        operands = ("dy", "w_packed", "dx", "w_scale")
        return (Launch(input_grad_kernel, programs, operands, constants, config.num_warps),)

    return Bound(launches)


def configs(problem: Problem) -> tuple[InputGradConfig, ...]:
    """Return configs by dtype and number of rows, the likeliest best first."""
    if problem.x_dtype == "float32":
        return InputGradConfig(32, 16, 16, 4, 2), InputGradConfig(16, 16, 16, 4, 2)
    # with 4 stages Triton 3.6 cannot compile row scales for AMD
    flat = InputGradConfig(min(64, max(16, problem.rows)), 16, 128, 4, 3)
    candidates = flat, InputGradConfig(16, 16, 64, 4, 3), InputGradConfig(16, 16, 32, 4, 2)
    if problem.rows >= 128:
        alone = work(problem, problem.in_features, 128, 128) == 128 * 128
        large = InputGradConfig(128, 32, 128 if alone else 64, 4, 3)
        # an output of the flat tiles costs 1.4 times as much on an H200
        few = 1.4 * work(problem, problem.in_features, 64, 64) < work(problem, problem.in_features, 128, 128)
        candidates = (flat, large, *candidates[1:]) if few else (large, *candidates)
    return fitting(problem, candidates, lambda config: config.shared_memory(x_bytes(problem)))


def space(problem: Problem) -> tuple[InputGradConfig, ...]:
    """Return tiles of 64 or 128 inputs by the number of rows."""
    if problem.x_dtype == "float32":
        return tuple(InputGradConfig(m, 16, n, 4, 2) for m, n in product((16, 32), (16, 32)))
    tiles = product(heights(problem), (16, 32), (32, 64, 128), (2, 3))
    configs = tuple(InputGradConfig(m, num_bytes, n, 4, stages) for m, num_bytes, n, stages in tiles)
    return fitting(problem, configs, lambda config: config.shared_memory(x_bytes(problem)))
