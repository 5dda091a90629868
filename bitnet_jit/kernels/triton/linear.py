"""The three linear ops by the two ways to multiply: what `gemv.py` and `gemm.py` need around them.

`bit_linear` quantizes x in the order that its product reads. Given codes come in natural order and are padded (and, for
the matrix units, put in order) by torch first.
"""

from typing import Any

import torch
import triton
from torch.nn.functional import pad

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton.gemm import GemmConfig, gemm
from bitnet_jit.kernels.triton.gemv import GemvConfig, gemv
from bitnet_jit.kernels.triton.layout import CHUNK, I2_PLANES, row_bytes
from bitnet_jit.kernels.triton.quantize import default_config, quantize
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

MOST_GEMV_ROWS = 4
MOST_GEMV_STEPS = 16
MULTIPROCESSORS = 132  # of the GPU that the defaults were measured on
GEMV_TILES = (  # by the most words of a row
    (192, (GemvConfig(8, 64, 2), GemvConfig(16, 32, 2), GemvConfig(2, 64, 1))),
    (320, (GemvConfig(8, 128, 4), GemvConfig(4, 256, 4), GemvConfig(8, 64, 1))),
    (448, (GemvConfig(4, 256, 4), GemvConfig(2, 512, 4))),
    (768, (GemvConfig(8, 128, 4), GemvConfig(16, 128, 4), GemvConfig(4, 128, 1))),
    (2048, (GemvConfig(2, 128, 1), GemvConfig(4, 128, 2))),
)
LARGE_TILES = (GemmConfig(128, 128, 64, 4, 4, 3), GemmConfig(128, 64, 64, 8, 4, 3))


def arrange(x_q: torch.Tensor, chunks: bool) -> torch.Tensor:
    """x_q (M, K) int8 -> (M, 4 B), padded with zeros, in natural order or that of chunks."""
    rows, in_features = x_q.shape
    num_bytes = row_bytes(in_features)
    padded = pad(x_q, (0, 4 * num_bytes - in_features)) if in_features < 4 * num_bytes else x_q.contiguous()
    if chunks:
        padded = padded.view(rows, 4, num_bytes // CHUNK, CHUNK).transpose(1, 2).reshape(rows, 4 * num_bytes)
    return padded


def multiply(x_q, x_scale, w_packed, w_scale, bias, y: torch.Tensor, config: Config) -> torch.Tensor:
    """y (M, N) by the kernel that the config is of."""
    if not y.numel():
        return y
    run: Any = gemv if isinstance(config, GemvConfig) else gemm
    operands = (None if a is None else a.contiguous() for a in (x_scale, w_packed, w_scale, bias))
    return run(x_q, *operands, y, config)


def bind_ternary_matmul(problem: Problem, config: Config):
    chunks = isinstance(config, GemmConfig)

    def run(x_q: torch.Tensor, w_packed: torch.Tensor) -> torch.Tensor:
        y = torch.empty(x_q.shape[0], problem.out_features, dtype=torch.int32, device=x_q.device)
        return multiply(arrange(x_q, chunks), None, w_packed, None, None, y, config)

    return run


def bind_quantized_linear(problem: Problem, config: Config):
    chunks, y_dtype = isinstance(config, GemmConfig), getattr(torch, problem.y_dtype)

    def run(x_q, x_scale, w_packed, w_scale, bias) -> torch.Tensor:
        y = torch.empty(x_q.shape[0], problem.out_features, dtype=y_dtype, device=x_q.device)
        return multiply(arrange(x_q, chunks), x_scale, w_packed, w_scale, bias, y, config)

    return run


def bind_bit_linear(problem: Problem, config: Config):
    chunks, quantizer = isinstance(config, GemmConfig), default_config(problem.in_features)

    def run(x, w_packed, w_scale, bias) -> torch.Tensor:
        x_q, x_scale = quantize(x.contiguous(), quantizer, chunks)
        y = torch.empty(x.shape[0], problem.out_features, dtype=x.dtype, device=x.device)
        return multiply(x_q, x_scale, w_packed, w_scale, bias, y, config)

    return run


def gemv_configs(problem: Problem) -> tuple[GemvConfig, ...]:
    """Tiles by the length of a row, in at most 16 steps, the likeliest best first: what won on an H200."""
    words = row_bytes(problem.in_features) // 4
    for most_words, tiles in GEMV_TILES:
        if words <= most_words:
            return tiles
    block_words = triton.next_power_of_2(triton.cdiv(words, MOST_GEMV_STEPS))
    return GemvConfig(max(1, 1024 // block_words), block_words, 4), GemvConfig(1, block_words, 2)


def gemm_configs(problem: Problem) -> tuple[GemmConfig, ...]:
    """Tiles by the number of rows and outputs, the likeliest best first: what won on an H200.

    From 128 rows on, the largest tile of which there is one for every multiprocessor; below, one tile high.
    """
    rows, out_features, num_bytes = problem.rows, problem.out_features, row_bytes(problem.in_features)
    if rows >= 128:
        fitting = [
            config
            for config in LARGE_TILES
            if triton.cdiv(rows, config.block_m) * triton.cdiv(out_features, config.block_n) >= MULTIPROCESSORS
        ]
        return (*fitting, *small_tiles(64, num_bytes, 3))
    high = small_tiles(max(16, rows), num_bytes, 4)
    return high if rows < 64 or out_features < 8192 else high[::-1]


def small_tiles(block_m: int, num_bytes: int, num_stages: int) -> tuple[GemmConfig, ...]:
    """Tiles of 64 outputs; 128 packed bytes at a time go first where they divide a row."""
    deep, flat = GemmConfig(block_m, 64, 128, 8, 4, num_stages), GemmConfig(block_m, 64, 64, 8, 4, 4)
    return (deep, flat) if num_bytes % 128 == 0 else (GemmConfig(block_m, 64, 64, 8, 4, 6), flat)


def why_not(problem: Problem) -> str | None:
    """What both ways refuse, in words."""
    if problem.layout != I2_PLANES.name:
        return f"reads the layout {I2_PLANES.name}, not {problem.layout!r}"
    if problem.activation == "a16":
        return "serves activation='a8'"
    if problem.scale == "group":
        return "takes tensor and row scales, not group scales"
    if problem.in_features >= MAX_IN_FEATURES and problem.op != "bit_linear":
        return f"takes given codes of fewer than {MAX_IN_FEATURES} inputs: 64 times their sum must fit in 32 bits"
    return None


def why_no_gemv(problem: Problem) -> str | None:
    """What the kernel for few rows refuses."""
    if problem.rows > MOST_GEMV_ROWS:
        return f"takes up to {MOST_GEMV_ROWS} rows"
    return why_not(problem)


BINDS = {
    "bit_linear": bind_bit_linear,
    "quantized_linear": bind_quantized_linear,
    "ternary_matmul": bind_ternary_matmul,
}
KERNELS = (
    *(Kernel(f"triton.gemv_{op}", op, bind, gemv_configs, why_no_gemv) for op, bind in BINDS.items()),
    *(Kernel(f"triton.gemm_{op}", op, bind, gemm_configs, why_not) for op, bind in BINDS.items()),
)
