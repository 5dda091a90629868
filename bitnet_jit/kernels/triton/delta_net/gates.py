"""The gates of the delta rule in float32, accurate where a gate is applied thousands of times.

    beta = sigmoid(b);  g = exp(decay * softplus(a + dt_bias))

Triton's own exp is that of the hardware, whose errors near 1 would add up over the tokens that a state remembers.
"""

import triton
import triton.language as tl

LOG2_E, ROUND = tl.constexpr(1.44269504), tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number
LN_2_UPPER, LN_2_LOWER = tl.constexpr(0.693359375), tl.constexpr(-2.12194440e-4)
LOG_TERMS = tl.constexpr(9)  # of the series of log1p


@triton.jit
def exp(x):
    """Return exp(x) within two units in the last place, 0 below -87: the polynomial of the Cephes library."""
    cut = tl.where(x > 88.0, 88.0, tl.where(x < -87.0, -87.0, x))
    power = (cut * LOG2_E + ROUND) - ROUND
    rest = (cut - power * LN_2_UPPER) - power * LN_2_LOWER
    value = rest * 1.9875691500e-4 + 1.3981999507e-3
    value = value * rest + 8.3334519073e-3
    value = value * rest + 4.1665795894e-2
    value = value * rest + 1.6666665459e-1
    value = value * rest + 5.0000001201e-1
    value = (value * rest * rest + rest) + 1.0
    exponent = tl.where(power == power, power, 0.0).to(tl.int32) + 127
    return tl.where(x < -87.0, 0.0, value * (exponent << 23).to(tl.float32, bitcast=True))


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x))."""
    one = tl.zeros_like(x) + 1.0
    return tl.div_rn(one, one + exp(-x))


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)), x beyond 20; log1p(e) = 2 atanh(e / (2 + e)) by its series, where e is at most 1."""
    e = exp(-tl.abs(x))
    s = tl.div_rn(e, 2.0 + e)
    square, series = s * s, tl.zeros_like(s)
    for term in tl.static_range(LOG_TERMS):
        series = series * square + 1.0 / (2 * (LOG_TERMS - term) - 1)
    return tl.where(x > 20.0, x, tl.where(x > 0.0, x, 0.0) + 2.0 * s * series)
