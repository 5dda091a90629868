"""Logits in which the largest one is hard to tell: ties, both zeros, denormals, infinities, NaN of either sign."""

import numpy as np
from hypothesis import strategies as st

FILLS = (0.0, -0.0, -np.inf, -1e-45, -3.4e38, 7.0, "random", "few")  # of a row, before some places get other values
VALUES = (0.0, -0.0, 1e-45, -1e-45, 7.0, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, -np.nan)


@st.composite
def logits_draws(draw, rows=(1, 3, 17), sizes=(1, 3, 17, 33, 1023, 1024, 1025, 2048, 4097)):
    """Draw logits (M, N) float32."""
    shape = draw(st.sampled_from(rows)), draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = np.empty(shape, np.float32)
    for row in logits:
        fill = draw(st.sampled_from(FILLS))
        if isinstance(fill, str):
            row[:] = rng.standard_normal(shape[1]) * 3
            row[:] = np.round(row) if fill == "few" else row
        else:
            row[:] = fill
        for value in draw(st.lists(st.sampled_from(VALUES), max_size=3)):
            row[rng.integers(shape[1], size=rng.integers(1, 3))] = value
    return logits
