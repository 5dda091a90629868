"""The epilogue, from the sums of a register tile to y: scales, bias and the output's dtype.

    y = float32(acc - sum over k of x_q) * (x_scale * w_scale) + bias

`groups.py` has the same with scales of groups.
"""

import numpy as np

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import (
    load_float,
    load_float32,
    load_int32,
    store_float,
    store_float32,
    store_int32,
)
from bitnet_jit.kernels.numba.intrinsics.scalars import F0


@jit
def finish_sums(spec, job, acc, row, output, count):
    """Turn sums of one row, `count` outputs from number `output` on, into int32 y."""
    x_sum, first = load_int32(job.x_sum, row), row * job.out_features + output
    for c in range(count):
        store_int32(job.y, first + c, load_int32(acc, c) - x_sum)


@jit
def finish_scaled(spec, job, acc, row, output, count):
    """Turn sums of one row, `count` outputs from number `output` on, into y, by one scale or one per output.

    Each branch is a bare loop, which vectorizes; every product and sum rounds by itself.
    """
    x_sum, x_scale, w_scale = load_int32(job.x_sum, row), load_float32(job.x_scale, row), job.w_scale
    if job.scale_stride == 0:
        scale = x_scale * load_float32(w_scale, 0)
        for c in range(count):
            store_float32(acc, c, np.float32(load_int32(acc, c) - x_sum) * scale)
    else:
        for c in range(count):
            scale = x_scale * load_float32(w_scale, output + c)
            store_float32(acc, c, np.float32(load_int32(acc, c) - x_sum) * scale)
    finish_floats(spec, job, acc, row, output, count)


finish_row = one_of(lambda spec: finish_sums if spec.y_is_sums else finish_scaled)


@jit
def finish_floats(spec, job, values, row, output, count):
    """Store float32 values of one row plus the bias (address 0: none), rounded to the dtype of y."""
    first = row * job.out_features + output
    if job.bias == 0:
        for c in range(count):
            store_float(spec.y_dtype, job.y, first + c, load_float32(values, c))
    else:
        for c in range(count):
            value = load_float32(values, c) + load_float(spec.bias_dtype, job.bias, output + c)
            store_float(spec.y_dtype, job.y, first + c, value)


@jit
def finish_rows(spec, job, acc, row_bytes, first_row, rows, output, count):
    """Turn sums of rows first_row.., row_bytes apart from address acc, into `count` outputs each from `output` on."""
    for r in range(rows):
        finish_row(spec, job, acc + row_bytes * r, first_row + r, output, count)


@jit
def clear(sums, count):
    """Set float32 sums to zero."""
    for c in range(count):
        store_float32(sums, c, F0)


@jit
def scale_row(sums, x_scale, count):
    """Multiply sums by x_scale."""
    for c in range(count):
        store_float32(sums, c, load_float32(sums, c) * x_scale)
