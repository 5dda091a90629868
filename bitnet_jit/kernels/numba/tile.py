"""One register tile, `rows` rows of x by `columns` x 16 outputs; then scales, bias and the output's dtype.

    acc = sum over k of x_q * (w + 1), less sum x_q:  the codes w + 1 are unsigned, as the CPUs' instructions want them
    y   = float32(acc) * (x_scale * w_scale) + bias

Group scales: y = (sum over groups, ascending, of float32(acc of the group) * w_scale of the group) * x_scale + bias.
"""

import numpy as np

from bitnet_jit.kernels.numba.elements import (
    load_float,
    load_float32,
    load_int32,
    store_float,
    store_float32,
    store_int32,
)
from bitnet_jit.kernels.numba.jit import jit
from bitnet_jit.kernels.numba.job import TENSOR
from bitnet_jit.kernels.numba.simd import spill, step, zero

F0 = np.float32(0)


@jit
def accumulate(tile, x, x_stride, w, steps, acc):
    """Codes of `steps` steps of K at address w times x -> int32 sums (rows, 16 * columns) at address acc."""
    registers = zero(tile)
    for s in range(steps):
        registers = step(tile, registers, x + s * tile.inputs, x_stride, w + s * 256)
    spill(tile, registers, acc)


@jit
def finish_sums(acc, x_sum, y, first, count):
    """Sums of one row -> int32 outputs y[first:first + count]."""
    for c in range(count):
        store_int32(y, first + c, load_int32(acc, c) - x_sum)


@jit
def finish_row(spec, acc, x_sum, x_scale, w_scale, scale_kind, bias, y, output, first, count):
    """Sums of one row -> y[first:first + count]; `output` is the number of the first output.

    Each branch is a bare loop, which vectorizes; every product and sum rounds by itself.
    """
    if scale_kind == TENSOR:
        scale = x_scale * load_float32(w_scale, 0)
        for c in range(count):
            store_float32(acc, c, np.float32(load_int32(acc, c) - x_sum) * scale)
    else:
        for c in range(count):
            scale = x_scale * load_float32(w_scale, output + c)
            store_float32(acc, c, np.float32(load_int32(acc, c) - x_sum) * scale)
    finish_floats(spec, acc, bias, y, output, first, count)


@jit
def finish_floats(spec, values, bias, y, output, first, count):
    """float32 values of one row, plus the bias (address 0: none), rounded to the dtype of y."""
    if bias == 0:
        for c in range(count):
            store_float(spec.y_dtype, y, first + c, load_float32(values, c))
    else:
        for c in range(count):
            store_float(
                spec.y_dtype, y, first + c, load_float32(values, c) + load_float(spec.bias_dtype, bias, output + c)
            )


@jit
def finish_rows(spec, job, acc, row_bytes, first_row, rows, output, count):
    """Sums of rows first_row.., row_bytes apart from address acc -> `count` outputs of each row from `output` on."""
    for r in range(rows):
        row = first_row + r
        sums, first = acc + row_bytes * r, row * job.out_features + output
        if spec.y_is_sums:
            finish_sums(sums, load_int32(job.x_sum, row), job.y, first, count)
        else:
            finish_row(
                spec,
                sums,
                load_int32(job.x_sum, row),
                load_float32(job.x_scale, row),
                job.w_scale,
                job.scale_kind,
                job.bias,
                job.y,
                output,
                first,
                count,
            )


@jit
def add_group(acc, x_sum, w_scale, stride, group, output, sums, count):
    """sums += float32(acc - x_sum) * w_scale of the group, for one row; w_scale is (N, stride)."""
    for c in range(count):
        scale = load_float32(w_scale, (output + c) * stride + group)
        store_float32(sums, c, load_float32(sums, c) + np.float32(load_int32(acc, c) - x_sum) * scale)


@jit
def clear(sums, count):
    """Set float32 sums to zero."""
    for c in range(count):
        store_float32(sums, c, F0)


@jit
def scale_row(sums, x_scale, count):
    """sums *= x_scale."""
    for c in range(count):
        store_float32(sums, c, load_float32(sums, c) * x_scale)
