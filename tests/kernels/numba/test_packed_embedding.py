"""Rows of token ids in a packed table, against the reference: both packings, every kind of scales, ids outside.

No torch here: this file runs on an emulated ARM CPU, too.
"""

import numpy as np
import pytest
from halves import values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba_calls import assert_guarded, poisoned, rounded

from bitnet_jit import reference
from bitnet_jit.kernels.numba.arrays import all_threads, run
from bitnet_jit.kernels.numba.layout import LAYOUTS
from bitnet_jit.kernels.numba.rowwise.packed_embedding import KERNELS
from bitnet_jit.problem import Problem, rows_bucket, scale_shape

(KERNEL,) = KERNELS
LAYOUT = {layout.format.name: layout for layout in LAYOUTS}
GROUPS = {"i2": (16, 32, 128), "t5": (20, 60)}  # inputs of a group, multiples of a step
OUTSIDE = (-1, -(2**31), 2**31 - 1, -(2**63), 2**63 - 1, 2**32)


def problem_of(format, scale, group_size=0, rows=1, size=3, features=17, **dtypes):
    layout, group = LAYOUT[format].name, group_size if scale == "group" else 0
    return Problem(
        "packed_embedding", "cpu", rows_bucket(rows), size, features, layout, scale=scale, group_size=group, **dtypes
    )


def drawn_ids(rng, rows, size, dtype):
    """Return ids of which all but the first may be outside of the table."""
    ids = rng.integers(size, size=rows).astype(dtype)
    outside = [value for value in (*OUTSIDE, size) if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max]
    ids[1:] = np.where(rng.random(rows - 1) < 0.3, rng.choice(outside, rows - 1).astype(dtype), ids[1:])
    return ids


def table_of(rng, problem):
    """Return codes (N, K), scales as the problem has them, and the floats that both stand for."""
    size, features = problem.out_features, problem.in_features
    shape = scale_shape(problem.scale, size, features, problem.group_size)
    w_q = rng.integers(-1, 2, (size, features), dtype=np.int8)
    w_scale = np.asarray(rng.standard_normal(shape), np.float32)
    w_scale[...] = np.where(rng.random(shape) < 0.2, 0, w_scale)
    wide = w_scale
    if problem.scale == "group":
        wide = w_scale.repeat(problem.group_size, 1)[:, :features]
    elif problem.scale == "row":
        wide = w_scale[:, None]
    return w_q, w_scale, w_q * wide


@pytest.mark.parametrize("ids_dtype", ["int64", "int32"])
@pytest.mark.parametrize("scale", ["tensor", "row", "group"])
@pytest.mark.parametrize("format", ["i2", "t5"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.sampled_from((1, 3, 17, 40)),
    size=st.sampled_from((1, 3, 64, 131)),
    features=st.sampled_from((1, 3, 16, 17, 20, 33, 64, 257, 1001)),
    which=st.integers(0, 5),
    dtype=st.sampled_from(("float32", "bfloat16", "float16")),
    threads=st.sampled_from((1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_ids(format, scale, ids_dtype, rows, size, features, which, dtype, threads, seed):
    rng, group_size = np.random.default_rng(seed), GROUPS[format][which % len(GROUPS[format])]
    problem = problem_of(format, scale, group_size, rows, size, features, x_dtype=ids_dtype, y_dtype=dtype)
    w_q, w_scale, wide = table_of(rng, problem)
    ids = drawn_ids(rng, rows, size, ids_dtype)
    layout = LAYOUT[format]
    w_packed = layout.from_canonical(layout.format.pack(w_q), size, features)
    guarded, y = poisoned(rows, features, dtype)
    run(KERNEL, problem, {"ids": ids, "w_packed": w_packed, "w_scale": w_scale, "y": y}, team=all_threads(threads))
    expected = rounded(reference.embedding(ids, wide), dtype)
    assert np.array_equal(values(y, dtype), expected, equal_nan=True)
    assert_guarded(guarded)


def test_every_byte_of_t5_is_read():
    """All 243 combinations of the five codes that share a byte."""
    w_q = (np.arange(243)[:, None] // 3 ** np.arange(5) % 3 - 1).astype(np.int8).repeat(4, 1)
    layout, problem = LAYOUT["t5"], problem_of("t5", "tensor", size=243, features=20, rows=243, x_dtype="int32")
    w_packed, y = layout.from_canonical(layout.format.pack(w_q), 243, 20), np.full((243, 20), np.nan, np.float32)
    ids = np.arange(243, dtype=np.int32)
    run(KERNEL, problem, {"ids": ids, "w_packed": w_packed, "w_scale": np.array(0.5, np.float32), "y": y})
    assert np.array_equal(y, w_q * 0.5)


def test_what_is_not_served_is_refused_in_words():
    assert "takes groups of a multiple of 16 inputs" in KERNEL.unsupported_reason(problem_of("i2", "group", 24))
    assert "takes groups of a multiple of 20 inputs" in KERNEL.unsupported_reason(problem_of("t5", "group", 128))
    assert KERNEL.unsupported_reason(problem_of("i2", "group", 128)) is None
    canonical = Problem("packed_embedding", "cpu", 1, 3, 17, "i2", scale="row")
    assert "reads the layouts i2/n64k16, t5/n64k20" in KERNEL.unsupported_reason(canonical)
