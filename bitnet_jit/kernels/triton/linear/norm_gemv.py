"""Linear layers for a few rows of x in one launch: every program normalizes and quantizes the rows, then multiplies.

Beside the norm there may be a sum of two tensors, which is given back, or an activation and a product with `up`. All
that is repeated in every program, beside weights on their way from memory: the launch and the wait that it saves take
longer. A program has nearly as many outputs as every other, as all run at once; each warp takes a row of W at a time.

The codes are those of `rowwise/rows.py`, bit for bit.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import ROUND, code_scale, magnitude
from bitnet_jit.kernels.triton.device.row import (
    inputs_of_part,
    lanes_of,
    largest_of,
    load_values,
    norm_factor,
    part_of,
    sum_of_lanes,
)
from bitnet_jit.kernels.triton.device.target import multiprocessors, supports_pdl
from bitnet_jit.kernels.triton.device.unpack import FIELDS
from bitnet_jit.kernels.triton.layout import I2_PLANES, row_words
from bitnet_jit.kernels.triton.linear.epilogue import flags, scale_operands
from bitnet_jit.kernels.triton.linear.gemv import dot_bytes
from bitnet_jit.kernels.triton.linear.loads import load_inside
from bitnet_jit.problem import Problem

DOT_FIELDS = tl.constexpr(  # by plane
    tuple(
        f"{{ .reg .b32 t; shl.b32 t, $1, {6 - 2 * plane}; and.b32 t, t, 0xC0C0C0C0; dp4a.s32.s32 $0, t, $2, $3; }}"
        for plane in range(4)
    )
)
MAX_ROWS = 2  # each repeats the norm, where the row kernel has a program for every row
MAX_WORDS = 512  # of a row of W: a thread holds a word of each 32, and the words of x beside it
MAX_HELD = 200  # registers
SHARED = 48 * 1024  # bytes where launches overlap: more than it uses, and what each gets without asking
KINDS = {  # of values, as `load_values` names them
    "rms_norm_bit_linear": "x",
    "add_rms_norm_bit_linear": "add",
    "relu2_mul_norm_bit_linear": "relu2",
    "silu_mul_norm_bit_linear": "silu",
}
OPERANDS = {
    "rms_norm_bit_linear": ("x", None, None, "weight", "eps", None),
    "add_rms_norm_bit_linear": ("x", "delta", None, "weight", "eps", "total"),
    "relu2_mul_norm_bit_linear": ("gate", "up", "row_stride", "weight", "eps", None),
    "silu_mul_norm_bit_linear": ("gate", "up", "row_stride", "weight", "eps", None),
}


@dataclass(frozen=True)
class NormGemvConfig:
    """A program has `num_warps` warps with `tiles` rows of W each; `max_registers` as for `GemvConfig`.

    `late`: whether the next kernel may begin only when the one ahead has ended.
    """

    num_warps: int
    tiles: int
    max_registers: int
    late: bool


@triton.jit
def word_of(a, b, c, d, ASM: tl.constexpr):
    """Join the lowest bytes of four words."""
    if ASM:
        word = tl.inline_asm_elementwise(
            "{ .reg .b32 t, u; prmt.b32 t, $1, $2, 0x0040; prmt.b32 u, $3, $4, 0x0040; prmt.b32 $0, t, u, 0x5410; }",
            "=r,r,r,r,r",
            [a, b, c, d],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        word = (a & 0xFF) | (b & 0xFF) << 8 | (c & 0xFF) << 16 | d << 24
    return word


@triton.jit
def dot_fields(words, x, acc, PLANE: tl.constexpr, ASM: tl.constexpr):
    """Return acc + 64 times the products of the weights of a plane and the four int8 in each word of x.

    In one piece, so that the compiler does not keep fields for the next row of x: they are more than registers hold.
    """
    if ASM:
        acc = tl.inline_asm_elementwise(
            DOT_FIELDS[PLANE], "=r,r,r,r", [words, x, acc], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        acc = dot_bytes((words << (6 - 2 * PLANE)) & FIELDS, x, acc, False)
    return acc


@triton.jit
def words_of(codes, SIZE: tl.constexpr, ASM: tl.constexpr):
    """Join codes (4, SIZE, 4), in the lowest bytes of int32, to words (32, 4, SIZE / 32): word, plane, piece."""
    even, odd = tl.split(tl.reshape(codes, (4, SIZE, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    words = word_of(a, b, c, d, ASM)
    return tl.permute(tl.reshape(words, (4, SIZE // 32, 32)), (2, 0, 1))


@triton.jit
def piece_of(words, PIECE: tl.constexpr):
    """Return words[:, :, PIECE], which every warp needs: what comes of all pieces is one exchange of a row."""
    for bit in tl.static_range(4):  # of at most MAX_WORDS / 32 pieces; Triton 3.4 cannot hash a recursion
        if words.shape[2] > 1:
            even, odd = tl.split(tl.reshape(words, (32, 4, words.shape[2] // 2, 2)))
            words = even if (PIECE >> bit) % 2 == 0 else odd
    return tl.reshape(words, (32, 4))


@triton.jit
def planes_of(piece):
    """Return the planes of a piece (32, 4), each (32,)."""
    even, odd = tl.split(tl.reshape(piece, (32, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def quantized_row(
    x_ptr,
    other_ptr,
    total_ptr,
    k,
    inside,
    gains,
    eps,
    K: tl.constexpr,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    ASM: tl.constexpr,
):
    """Return the codes of a row as words, as `words_of` gives them, and x_scale; program 0 writes the sum."""
    x = load_values(x_ptr, other_ptr, k, inside, KIND)
    total = x
    if gains is not None:
        x = x * norm_factor(sum_of_lanes(lanes_of(x * x, SIZE)), eps, K) * gains.to(tl.float32)
    _, to_codes, x_scale = code_scale(largest_of(magnitude(x), SIZE))  # of a bad row it is NaN, whatever the codes
    if total_ptr is not None:
        tl.store(total_ptr + k, total.to(total_ptr.dtype.element_ty), mask=inside & (tl.program_id(0) == 0))
    codes = (x * to_codes + ROUND).to(tl.int32, bitcast=True)
    return words_of(codes, SIZE, ASM), x_scale


@triton.jit
def norm_gemv_kernel(
    x_ptr,  # (M, K) float; the gate where other is up
    other_ptr,  # (M, K) float: what is added, or up
    x_stride,  # distance of the rows of x and other, in elements; None: K
    norm_ptr,  # (K,) float
    eps,
    total_ptr,  # (M, K): x + other
    w_ptr,  # (N, WORDS) int32: i2/planes
    y_ptr,  # (M, N)
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    N,
    K: tl.constexpr,
    WORDS: tl.constexpr,
    SIZE: tl.constexpr,  # the power of two that holds WORDS
    PIECES: tl.constexpr,  # of 32 words
    KIND: tl.constexpr,
    M: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    LATE: tl.constexpr,  # let the next kernel begin behind the wait only
    WARPS: tl.constexpr,
    TILES: tl.constexpr,  # rows of W that a warp takes
):
    gdc_launch_dependents(PDL and not LATE)
    first_n, warp, lane = tl.program_id(0) * (WARPS * TILES), tl.arange(0, WARPS)[:, None], tl.arange(0, 32)[None, :]
    w_ptr += first_n.to(tl.int64) * WORDS
    weights = ()
    for tile in tl.static_range(TILES):
        row = tl.minimum(warp * TILES + tile, N - 1 - first_n)
        for piece in tl.static_range(PIECES):
            word, whole = 32 * piece + lane, 32 * piece + 32 <= WORDS
            weights = weights + (load_inside(w_ptr + (row * WORDS + word), word < WORDS, whole, "evict_first"),)
    n = first_n + warp * TILES + lane  # a lane keeps the outputs of one tile
    there = (lane < TILES) & (n < N)
    w_scale, bias, gains = tl.load(w_scale_ptr), 0.0, None
    if ROW_SCALES:
        w_scale = tl.load(w_scale_ptr + n, mask=there, other=0.0)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + n, mask=there, other=0.0).to(tl.float32)
    k, inside = inputs_of_part(0, SIZE, WORDS)
    inside = inside & (k < K)
    if norm_ptr is not None:
        gains = tl.load(norm_ptr + k, mask=inside, other=0.0)
    gdc_wait(PDL)
    gdc_launch_dependents(PDL and LATE)
    for m in range(M):
        first = m * (K if x_stride is None else x_stride)
        words, x_scale = quantized_row(
            x_ptr + first,
            other_ptr + first if other_ptr is not None else None,
            total_ptr + m * K if total_ptr is not None else None,
            k,
            inside,
            gains,
            eps,
            K,
            SIZE,
            KIND,
            ASM,
        )
        planes = ()
        for piece in tl.static_range(PIECES):
            planes = planes + planes_of(piece_of(words, piece))
        sums = tl.zeros((WARPS, 32), tl.int32)
        for tile in tl.static_range(TILES):
            acc = tl.zeros((WARPS, 32), tl.int32)
            for place in tl.static_range(4 * PIECES):
                x = tl.broadcast_to(planes[place][None, :], (WARPS, 32))
                acc = dot_fields(weights[tile * PIECES + place // 4], x, acc, place % 4, ASM)
            sums = tl.where(lane == tile, tl.sum(acc, axis=1)[:, None], sums)
        y = (sums >> 6).to(tl.float32) * (x_scale * w_scale)
        if bias_ptr is not None:
            y = y + bias
        tl.store(y_ptr + m * N + n, y.to(y_ptr.dtype.element_ty), mask=there)


def bind(problem: Problem, config: NormGemvConfig) -> Bound:
    """Bind x (M, K) float and what stands beside it, a norm and w_packed -> y (M, N), and the sum if there is one."""
    return Bound(lambda rows: (launch(problem, rows, config),))


def launch(problem: Problem, rows: int, config: NormGemvConfig) -> Launch:
    """Return the launch of the problem's op."""
    absent = {"row_stride"} if problem.in_features % ALIGN else set()
    absent |= set() if problem.w_dtype else {"weight", "eps"}
    x_operands = (None if name in absent else name for name in OPERANDS[problem.op])
    words = row_words(problem)
    return Launch(
        norm_gemv_kernel,
        programs=triton.cdiv(problem.out_features, config.num_warps * config.tiles),
        operands=(*x_operands, "w_packed:int32", "y", *scale_operands(problem)[1:]),
        constants={
            "N": problem.out_features,
            "K": problem.in_features,
            "WORDS": words,
            "SIZE": part_of(words),
            "PIECES": triton.cdiv(words, 32),
            "KIND": KINDS[problem.op],
            "M": rows,
            **flags(problem),
            "LATE": config.late,
            "WARPS": config.num_warps,
            "TILES": config.tiles,
        },
        num_warps=config.num_warps,
        max_registers=config.max_registers,
        shared=SHARED if supports_pdl(problem.gpu) else 0,
    )


def registers(problem: Problem, tiles: int) -> int:
    """Return the registers in which a thread holds rows of W and of x."""
    return (tiles + 4) * triton.cdiv(row_words(problem), 32)


def config_of(problem: Problem, num_warps: int, late: bool) -> NormGemvConfig:
    """Return the config with a program for each multiprocessor, if registers hold its weights."""
    tiles = triton.cdiv(problem.out_features, num_warps * multiprocessors(problem.gpu))
    while tiles > 1 and registers(problem, tiles) > MAX_HELD:
        tiles = triton.cdiv(tiles, 2)
    return NormGemvConfig(num_warps, min(32, tiles), 128 if registers(problem, tiles) <= 100 else 255, late)


def configs(problem: Problem) -> tuple[NormGemvConfig, ...]:
    """Return configs, first the winner on an H100 in a whole decode step."""
    return config_of(problem, 8, True), config_of(problem, 4, True), config_of(problem, 8, False)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.rows > MAX_ROWS:
        return f"takes up to {MAX_ROWS} rows"
    if problem.layout != I2_PLANES.name:
        return f"reads the layout {I2_PLANES.name}, not {problem.layout!r}"
    if row_words(problem) > MAX_WORDS:
        return f"takes at most {16 * MAX_WORDS} inputs"
    return None
