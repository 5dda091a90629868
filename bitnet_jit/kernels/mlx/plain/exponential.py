"""exp of float32 by MLX's sums and products, whose result depends on the number alone, not on its place in an array."""

import mlx.core as mx

LOG2_E, LN_2 = 1.44269504, (0.693359375, -2.12194440e-4)  # the second in two parts, the first of which has few bits
FACTORS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
BIAS, MANTISSA = 127, 23  # of a float32


def exp(x: mx.array) -> mx.array:
    """Compute exp of float32 cut off at -87 and 88, as the Cephes library does."""
    x = mx.clip(x, -87.0, 88.0)
    power = mx.round(x * LOG2_E)
    rest = x - power * LN_2[0] - power * LN_2[1]
    value = mx.full(x.shape, FACTORS[0], dtype=mx.float32)
    for factor in FACTORS[1:]:
        value = value * rest + factor
    value = value * rest * rest + rest + 1.0
    exponent = mx.where(mx.isnan(power), 0.0, power).astype(mx.int32) + BIAS
    return value * (exponent << MANTISSA).view(mx.float32)


def sigmoid(x: mx.array) -> mx.array:
    """Compute 1 / (1 + exp(-x)) of float32."""
    return 1.0 / (1.0 + exp(-x))
