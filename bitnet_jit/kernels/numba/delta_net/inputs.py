"""What a token brings to the recurrence of one key head: its q, k and v behind the convolution, and its gates.

    x = silu(convolution);  q, k = x * rsqrt(sum x^2 + 1e-6), q times dk^-0.5
    beta = sigmoid(b);  g = exp(decay * softplus(a + dt_bias))

Sums of products of q and k run in 32 partial sums.
"""

import numpy as np

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.delta_net.convolution import convolve
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
from bitnet_jit.problem import MAX_TAPS

NORM_EPS, F2 = np.float32(1e-6), np.float32(2)
LINEAR = np.float32(20)  # from here on softplus(x) is x
NOTHING = np.float32(-87)  # below this exp is 0
SERIES = tuple(np.float32(1 / n) for n in range(17, 0, -2))  # of atanh


@jit
def load_row(spec, source, first, head, row):
    """Read a key head's numbers of the token that begins with element `first` at an address; zeros behind each part."""
    for part in range(2 + spec.group):
        start, place, count, padded, step = parts_of(spec, part)
        start += first + head * step
        for i in range(count):
            store_float32(row, place + i, load_float(spec.x_dtype, source, start + i))
        for i in range(count, padded):
            store_float32(row, place + i, F0)


@jit
def store_row(spec, target, first, head, row):
    """Write a key head's numbers to where `load_row` reads them."""
    for part in range(2 + spec.group):
        start, place, count, _, step = parts_of(spec, part)
        start += first + head * step
        for i in range(count):
            store_float(spec.x_dtype, target, start + i, load_float32(row, place + i))


@jit
def load_weight(spec, job, head, weight):
    """Read the weight of a key head's numbers, tap by tap; zeros for the taps that there are not, and behind parts."""
    none = MAX_TAPS - job.taps
    for i in range(MAX_TAPS * spec.width):
        store_float32(weight, i, F0)
    for part in range(2 + spec.group):
        start, place, count, _, step = parts_of(spec, part)
        start += head * step
        for tap in range(job.taps):
            for i in range(count):
                value = load_float32(job.conv_weight, (start + i) * job.taps + tap)
                store_float32(weight, (none + tap) * spec.width + place + i, value)


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
    square, series = s * s, F0
    for term in SERIES:
        series = series * square + term
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
    """Write what a token brings, whose row is the last of MAX_TAPS at address rows."""
    convolve(job.taps, spec.token_bytes, rows, weight, x)
    normalize(x, spec.padded_dk, F1 / np.sqrt(np.float32(spec.dk)))
    normalize(x + 4 * spec.padded_dk, spec.padded_dk, F1)
    write_gates(spec, job, token, head, x, gates)
