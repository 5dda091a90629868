"""Scales of groups, (N, groups) float32, transposed for a tile: rows of one scale per output, SPAN groups at a time.

Registers are transposed where all outputs of the tile are there and the groups are enough; else numbers are copied.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, store_float32
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, I64, at, load
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most

SPAN, HALF_SPAN = 8, 4  # groups that are transposed at once
LINE_BYTES = 64
EARLY = 2  # tiles of outputs ahead of the next one


def shuffled(builder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    """Emit a vector of chosen lanes of a and b, those of b counted behind those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def joined(builder, parts: list[ir.Value]) -> ir.Value:
    """Emit one vector of several, one behind the other."""
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        parts = [shuffled(builder, a, b, lanes) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def zipped(builder, a: ir.Value, b: ir.Value, unit: int, span: int) -> list[ir.Value]:
    """Emit the units of lanes of a and b in turns, within each `span` lanes: their lower half, and their upper half.

    Units of one or two lanes take turns within 16 bytes, as the CPUs' instructions have it; larger ones within a span.
    """
    within = min(4, span) if unit < 4 else span
    halves = []
    for half in range(2):
        lanes = []
        for first in range(0, a.type.count, within):
            for start in range(first + half * within // 2, first + (half + 1) * within // 2, unit):
                lanes += [*range(start, start + unit), *range(a.type.count + start, a.type.count + start + unit)]
        halves.append(shuffled(builder, a, b, lanes))
    return halves


def transposed(builder, rows: list[ir.Value]) -> list[ir.Value]:
    """Emit the transpose of 4 or 8 rows of as many lanes, in every such stretch of their lanes."""
    span = len(rows)
    pairs = [zipped(builder, a, b, 1, span) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    fours = []  # of each four rows: lanes 0, 1, 2, 3 of every 16 bytes
    for (low, high), (next_low, next_high) in zip(pairs[::2], pairs[1::2], strict=True):
        fours.append([*zipped(builder, low, next_low, 2, span), *zipped(builder, high, next_high, 2, span)])
    if span == 4:
        return fours[0]
    whole = [zipped(builder, a, b, 4, span) for a, b in zip(*fours, strict=True)]
    return [low for low, _ in whole] + [high for _, high in whole]


def transposer(span: int):
    """Return the intrinsic that transposes scales of `span` groups."""

    @intrinsic
    def transpose(typingctx, tile, scales, stride, buffer):
        width, lanes = tile.value.width, max(ISAS[tile.value.isa].lanes, span)
        kind = ir.VectorType(F32, span)

        def codegen(context, builder, signature, args):
            _, scales, stride, buffer = args
            places = [builder.add(scales, builder.mul(stride, ir.Constant(I64, i))) for i in range(lanes)]
            loaded = [load(builder, place, 0, kind) for place in places]
            rows = [joined(builder, loaded[i::span]) for i in range(span)]
            for group, values in enumerate(transposed(builder, rows)):
                builder.store(values, at(builder, buffer, 4 * width * group, values.type), align=4)
            return context.get_dummy_value()

        return types.void(tile, types.int64, types.int64, types.int64), codegen

    transpose.__doc__ = f"Write {span} scales of each of a register's outputs, `stride` bytes apart, to {span} rows."
    return transpose


transpose_span, transpose_half = transposer(SPAN), transposer(HALF_SPAN)


@intrinsic
def ask_for_line(typingctx, address):
    """Ask for the cache line at an address, which need not be ours, for the first cache."""

    def codegen(context, builder, signature, args):
        prefetch(builder, args[0], 0, 3)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def ask_early_for_line(typingctx, address):
    """Ask for the cache line at an address, which need not be ours, for the second cache."""

    def codegen(context, builder, signature, args):
        prefetch(builder, args[0], 0, 2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@jit
def copy_scales(tile, w_scale, groups, out_features, output, first, buffer):
    """Write scales as `load_scales`, one by one; those beyond the last output are the last one's again."""
    for c in range(tile.width):
        place = least(output + c, out_features - 1) * groups
        for group in range(first, least(first + SPAN, groups)):
            store_float32(buffer, (group - first) * tile.width + c, load_float32(w_scale, place + group))


@jit
def load_scales(tile, w_scale, groups, out_features, output, first, buffer):
    """Write the scales of SPAN groups from `first` on, or of all if there are fewer, to rows of the buffer.

    A row has one float32 per output of the tile.
    """
    stride = 4 * groups
    scales = w_scale + output * stride + 4 * first
    if groups < HALF_SPAN or output + tile.width > out_features:
        copy_scales(tile, w_scale, groups, out_features, output, first, buffer)
    elif groups < SPAN:
        rest = groups - HALF_SPAN
        for c in range(0, tile.width, tile.lanes):
            transpose_half(tile, scales + c * stride, stride, buffer + 4 * c)
            transpose_half(tile, scales + c * stride + 4 * rest, stride, buffer + 4 * c + 4 * tile.width * rest)
    else:
        for c in range(0, tile.width, most(tile.lanes, SPAN)):
            transpose_span(tile, scales + c * stride, stride, buffer + 4 * c)


@jit
def ask_for_scales(tile, w_scale, groups, output, group, cold):
    """Ask for a group's share of the scales of the outputs behind the tile's, and if cold of some further on."""
    if tile.rows == 1:
        ahead = w_scale + 4 * ((output + tile.width) * groups + group * tile.width)
        early = ahead + 4 * EARLY * tile.width * groups
        for place in range(0, 4 * tile.width, LINE_BYTES):
            ask_for_line(ahead + place)
            if cold:
                ask_early_for_line(early + place)
