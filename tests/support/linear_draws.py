"""Operands of linear layers as hypothesis draws them, as NumPy arrays. No torch here."""

import numpy as np
from halves import stored
from hypothesis import strategies as st


def codes(draw, rows, columns):
    """Draw int8 of every sort: all values, one extreme, zeros, a few large numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "127", "-128", "zeros", "edges"]))
    if kind == "random":
        return rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    if kind == "edges":
        return rng.choice(np.array([-128, 127, 0], np.int8), (rows, columns))
    return np.full((rows, columns), 0 if kind == "zeros" else int(kind), np.int8)


def weights(draw, rows, columns):
    """Draw int8 weights: all three values, or one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "1", "-1", "0"]))
    if kind == "random":
        return rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    return np.full((rows, columns), int(kind), np.int8)


def floats(draw, rows, columns, dtype, halves=(-255, 256), largest=127):
    """Draw rows of every sort as float32 that `dtype` holds exactly: NaN, infinity, zeros, denormals, huge, halves.

    Halves are drawn from a range of whole numbers; one is `largest`, where a quantizer's steps are whole.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    for row in range(rows):
        kind = draw(st.sampled_from(["normal", "normal", "zeros", "denormal", "huge", "halves", "nan", "inf", "-inf"]))
        place = rng.integers(columns)
        if kind == "zeros":
            x[row] = 0
        elif kind == "denormal":
            x[row] *= 1e-40 if dtype != "float16" else 1e-6
        elif kind == "huge":
            x[row] *= 3e37 if dtype != "float16" else 1e4
        elif kind == "halves":
            x[row] = rng.integers(*halves, columns) / 2
            x[row, place] = largest
        elif kind in ("nan", "inf", "-inf"):
            x[row, place] = float(kind)
    return stored(x, dtype)


def group_scales(draw, rows, columns, group_size):
    """Draw scales of groups, float32: some are zero, some tiny or huge."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = rng.standard_normal((rows, -(-columns // group_size))).astype(np.float32)
    kind = draw(st.sampled_from(["random", "zeros", "ends"]))
    if kind == "zeros":
        scales[rng.random(scales.shape) < 0.5] = 0
    if kind == "ends":
        scales *= rng.choice(np.array([1e-30, 1, 1e25], np.float32), scales.shape)
    return scales
