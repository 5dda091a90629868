"""One call of a linear kernel: its operands as addresses, and how its workspace and its rows are prepared.

All kernels of this package share this part; they differ in how they multiply (`linear.py`, `amx.py`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from numba.extending import overload, register_jitable

from bitnet_jit.kernels.numba.elements import ELEMENT_BYTES, store_int32
from bitnet_jit.kernels.numba.jit import jit
from bitnet_jit.kernels.numba.parallel import COUNTER_BYTES, COUNTERS, done, draw, wait
from bitnet_jit.kernels.numba.quantize import SEGMENT, copy_row, quantize_row, sum_groups

TENSOR, ROW, GROUP = 0, 1, 2  # dimensions of w_scale
ALIGN = 64
TILE_BYTES = 1024
CHUNK_ELEMENTS = 16384  # of x in one piece of the first phase
SMALL_WORK = 2**19  # products under which a second thread costs more than it brings


def inner_bytes(activation: str) -> int:
    """Bytes of an element of x as the inner loops read it: an int8 code, or a float32."""
    return 4 if activation == "a16" else 1


@dataclass(frozen=True)
class LinearSpec:
    """What a linear kernel is compiled for.

    Attributes:
        tile: the shape of its tile: a frozen dataclass of the kernel's file.
        activation: "a8": x becomes int8 codes; "a16": x becomes float32.
        x_dtype: "int8" for codes, or a floating dtype.
        y_dtype: "int32" for bare sums, or a floating dtype.
        bias_dtype: a floating dtype, where there is a bias.
    """

    tile: Any
    activation: str
    x_dtype: str
    y_dtype: str
    bias_dtype: str = "float32"

    @property
    def x_is_codes(self) -> bool:
        return self.x_dtype == "int8"

    @property
    def y_is_sums(self) -> bool:
        return self.y_dtype == "int32"

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def inner_bytes(self) -> int:
        """Of an element of x in the workspace."""
        return inner_bytes(self.activation)

    @property
    def y_bytes(self) -> int:
        return ELEMENT_BYTES[self.y_dtype]


class Job(NamedTuple):
    """Operands of one call, all int64; what is not used is 0."""

    x: int  # (rows, in_features) contiguous, spec.x_dtype
    x_scale: int  # (rows,) float32: given with codes, else in the workspace
    w: int  # blocks of the layout
    w_scale: int  # float32 (), (N,) or (N, groups)
    bias: int  # (N,) spec.bias_dtype
    y: int  # (rows, out_features) contiguous, spec.y_dtype
    rows: int
    in_features: int
    out_features: int
    scale_kind: int  # TENSOR, ROW or GROUP
    group_size: int  # inputs that share a scale and a sum; in_features where there is one group
    groups: int
    fork: int  # where threads come from
    threads: int
    counters: int  # workspace
    x_sum: int  # workspace: (rows, groups) int32
    x_q: int  # workspace: x as the inner loops read it, zero beyond in_features: rows x_stride bytes apart, or tiles
    x_stride: int


@register_jitable
def round_up(value, multiple):
    return (value + multiple - 1) // multiple * multiple


@register_jitable
def x_stride_of(in_features, inner_bytes):
    """Bytes between rows of x in the workspace: whole steps of K; a multiple of 1 KiB would crowd the cache."""
    stride = round_up(round_up(in_features, 20), 64) * inner_bytes
    return stride + 64 if stride % 1024 == 0 else stride


@register_jitable
def workspace_parts(rows, in_features, groups, inner_bytes):
    """Offsets behind the counters of x_scale, x_sum and x_q, and the size of it all in bytes."""
    x_scale = COUNTERS * COUNTER_BYTES
    x_sum = round_up(x_scale + 4 * rows, ALIGN)
    x_q = round_up(x_sum + 4 * rows * groups, ALIGN)
    return x_scale, x_sum, x_q, x_q + round_up(rows, 32) * x_stride_of(in_features, inner_bytes)


@jit
def useful_threads(products, threads):
    """One thread where the work is small."""
    return 1 if products < SMALL_WORK else threads


@jit
def make_job(spec, fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace):
    """A Job from the arguments of a call and the address of its workspace."""
    rows, in_features, out_features, kind, group_size = sizes
    group = group_size if kind == GROUP else in_features
    groups = (in_features + group - 1) // group
    scale_at, sum_at, codes_at, _ = workspace_parts(rows, in_features, groups, spec.inner_bytes)
    return Job(
        x,
        x_scale if spec.x_is_codes else workspace + scale_at,
        w,
        w_scale,
        bias,
        y,
        rows,
        in_features,
        out_features,
        kind,
        group,
        groups,
        fork,
        useful_threads(rows * in_features * out_features, threads),
        workspace,
        workspace + sum_at,
        workspace + codes_at,
        x_stride_of(in_features, spec.inner_bytes),
    )


def write_codes(spec, x, count, codes, segments, stride, x_scale, row):
    """Codes of one row: those given, or x quantized; returns their sum."""


@overload(write_codes)
def write_codes_of(spec, x, count, codes, segments, stride, x_scale, row):
    if spec.value.x_is_codes:
        return lambda spec, x, count, codes, segments, stride, x_scale, row: copy_row(x, count, codes, segments, stride)
    return lambda spec, x, count, codes, segments, stride, x_scale, row: quantize_row(
        spec.x_dtype, x, count, codes, segments, stride, x_scale, row
    )


@jit
def prepare_row(spec, job, row, codes, stride):
    """Codes of one row of x in segments of 64 that begin `stride` bytes apart; its scale and sums."""
    x = job.x + row * job.in_features * spec.x_bytes
    total = write_codes(spec, x, job.in_features, codes, job.x_stride // SEGMENT, stride, job.x_scale, row)
    if job.scale_kind == GROUP:
        sum_groups(codes, job.in_features, job.group_size, job.x_sum, row * job.groups)
    else:
        store_int32(job.x_sum, row, total)


@jit
def place_in_tiles(job, row, tile_rows):
    """Address of the first segment of a row among tiles of `tile_rows` rows (at most 16) by 64 inputs, 1 KiB each."""
    tiles = job.x_stride // SEGMENT
    return job.x_q + row // tile_rows * tiles * TILE_BYTES + row % tile_rows * SEGMENT


@jit
def prepare(spec, job, tile_rows):
    """The first phase of a team: all rows of x, drawn in chunks; returns when every row is ready.

    Codes lie row after row where `tile_rows` is 0, else in tiles (`place_in_tiles`).
    """
    chunk = max(1, CHUNK_ELEMENTS // job.in_features)
    pieces = (job.rows + chunk - 1) // chunk
    piece = draw(job.counters)
    while piece < pieces:
        for row in range(piece * chunk, min((piece + 1) * chunk, job.rows)):
            if tile_rows == 0:
                prepare_row(spec, job, row, job.x_q + row * job.x_stride, SEGMENT)
            else:
                prepare_row(spec, job, row, place_in_tiles(job, row, tile_rows), TILE_BYTES)
        done(job.counters)
        piece = draw(job.counters)
    wait(job.counters, pieces)
