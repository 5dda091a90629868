"""What a token brings to the recurrence of one key head: its q, k and v behind the convolution, and its gates.

    x = silu(sum of conv_weight[:, j] * row j);  q, k = x * rsqrt(sum x^2 + 1e-6), q times dk^-0.5
    beta = sigmoid(b);  g = exp(decay * softplus(a + dt_bias))

Products of the convolution are added from the oldest token on; sums of squares run in 32 partial sums.
"""

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.delta_net.job import parts_of
from bitnet_jit.kernels.numba.intrinsics.elements import (
    exp_float32,
    load_float,
    load_float32,
    store_float,
    store_float32,
)
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES, add_lanes, add_products, zero_floats
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, F1

NORM_EPS, F2 = np.float32(1e-6), np.float32(2)
LINEAR = np.float32(20)  # from here on softplus(x) is x
NOTHING = np.float32(-87)  # below this exp is 0
LOG_TERMS = 9  # of the series of log1p


@jit
def load_rows(spec, source, first, head, rows):
    """Read a key head's numbers (width,) of the token whose numbers begin with element `first` at address source."""
    for part in range(2 + spec.group):
        start, place, _, count, step = parts_of(spec, part)
        start += first + head * step
        for i in range(count):
            store_float32(rows, place + i, load_float(spec.x_dtype, source, start + i))


@jit
def store_rows(spec, target, first, head, rows):
    """Write a key head's numbers to where `load_rows` reads them."""
    for part in range(2 + spec.group):
        start, place, _, count, step = parts_of(spec, part)
        start += first + head * step
        for i in range(count):
            store_float(spec.x_dtype, target, start + i, load_float32(rows, place + i))


@jit
def load_weight(spec, job, head, weight):
    """Read the weight of a key head's numbers, tap by tap."""
    for part in range(2 + spec.group):
        start, place, _, count, step = parts_of(spec, part)
        start += head * step
        for tap in range(job.taps):
            for i in range(count):
                value = load_float32(job.conv_weight, (start + i) * job.taps + tap)
                store_float32(weight, tap * spec.width + place + i, value)


@jit
def convolve(spec, taps, rows, weight, out, count, padded):
    """Write silu of the convolution of `count` columns from address rows on; 0 up to `padded`."""
    for i in range(count):
        store_float32(out, i, load_float32(weight, i) * load_float32(rows, i))
    for tap in range(1, taps):
        at = tap * spec.width
        for i in range(count):
            product = load_float32(weight, at + i) * load_float32(rows, at + i)
            store_float32(out, i, load_float32(out, i) + product)
    for i in range(count):
        value = load_float32(out, i)
        store_float32(out, i, value / (F1 + exp_float32(-value)))
    for i in range(count, padded):
        store_float32(out, i, F0)


@jit
def dot(a, b, count):
    """Return the product of two vectors of whole LANES."""
    sums = zero_floats()
    for i in range(0, count, LANES):
        sums = add_products(sums, a + 4 * i, b + 4 * i)
    return add_lanes(sums)


@jit
def normalize(x, count, scale):
    """Divide x by its length, and multiply it by a scale."""
    scale = scale / np.sqrt(dot(x, x, count) + NORM_EPS)
    for i in range(count):
        store_float32(x, i, load_float32(x, i) * scale)


@jit
def softplus(x):
    """Return log(1 + exp(x)); log1p(e) = 2 atanh(e / (2 + e)) by its series, where e is at most 1."""
    if x > LINEAR:
        return x
    positive = x > F0
    e = exp_float32(-x if positive else x)
    s = e / (F2 + e)
    square, series = s * s, F1 / np.float32(2 * LOG_TERMS - 1)
    for term in range(2, LOG_TERMS + 1):
        series = series * square + F1 / np.float32(2 * (LOG_TERMS - term) + 1)
    return (x if positive else F0) + F2 * s * series


@jit
def write_gates(spec, job, token, head, x, gates):
    """Write k q, and g and beta of the value heads of a key head, for a token whose q and k are at address x."""
    store_float32(gates, 0, dot(x, x + 4 * spec.padded_dk, spec.padded_dk))
    for i in range(spec.group):
        h = head * spec.group + i
        b = load_float32(job.beta_alpha, token * 2 * spec.heads + h)
        a = load_float32(job.beta_alpha, (token * 2 + 1) * spec.heads + h)
        exponent = load_float32(job.decay, h) * softplus(a + load_float32(job.dt_bias, h))
        store_float32(gates, 1 + 2 * i, F0 if exponent < NOTHING else exp_float32(exponent))
        store_float32(gates, 2 + 2 * i, F1 / (F1 + exp_float32(-b)))


@jit
def prepare_token(spec, job, token, head, rows, weight, x, gates):
    """Write what a token brings, whose first tap is at address rows."""
    for part in range(2 + spec.group):
        _, place, behind, count, _ = parts_of(spec, part)
        padded = types.int64(spec.padded_dk) if part < 2 else types.int64(spec.padded_dv)
        convolve(spec, job.taps, rows + 4 * place, weight + 4 * place, x + behind, count, padded)
    normalize(x, spec.padded_dk, F1 / np.sqrt(np.float32(spec.dk)))
    normalize(x + 4 * spec.padded_dk, spec.padded_dk, F1)
    write_gates(spec, job, token, head, x, gates)
