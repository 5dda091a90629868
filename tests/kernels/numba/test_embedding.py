"""Rows of token ids in a table, against the reference: ids inside and outside, every dtype, several threads.

No torch here: this file runs on an emulated ARM CPU, too.
"""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba_calls import assert_guarded, poisoned, rounded

from bitnet_jit import reference
from bitnet_jit.kernels.numba.arrays import all_threads, run
from bitnet_jit.kernels.numba.rowwise.embedding import KERNELS
from bitnet_jit.problem import Problem, rows_bucket

(KERNEL,) = KERNELS
FLOATS = ("float32", "bfloat16", "float16")
OUTSIDE = (-1, -(2**31), 2**31 - 1, -(2**63), 2**63 - 1, 2**32, 2**32 + 1)


def table_of(rng, size, features, dtype):
    """Return a table as it is stored, its values, and the scales of its rows."""
    if dtype == "int8":
        table = rng.integers(-128, 128, (size, features), dtype=np.int8)
        return table, table, rng.random(size, dtype=np.float32)
    return *stored(rng.standard_normal((size, features), dtype=np.float32), dtype), None


@pytest.mark.parametrize("ids_dtype", ["int64", "int32"])
@pytest.mark.parametrize("y_dtype", FLOATS[:2])
@pytest.mark.parametrize("w_dtype", ["int8", *FLOATS])
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.sampled_from((1, 3, 17, 40)),
    size=st.sampled_from((1, 3, 33)),
    features=st.sampled_from((1, 3, 17, 64, 1001)),
    threads=st.sampled_from((1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_ids(ids_dtype, w_dtype, y_dtype, rows, size, features, threads, seed):
    rng = np.random.default_rng(seed)
    table, wide, scale = table_of(rng, size, features, w_dtype)
    ids = rng.integers(size, size=rows).astype(ids_dtype)
    outside = [value for value in (*OUTSIDE, size) if np.iinfo(ids_dtype).min <= value <= np.iinfo(ids_dtype).max]
    ids[1:] = np.where(rng.random(rows - 1) < 0.3, rng.choice(outside, rows - 1).astype(ids_dtype), ids[1:])
    problem = Problem(
        "embedding", "cpu", rows_bucket(rows), size, features, x_dtype=ids_dtype, y_dtype=y_dtype, w_dtype=w_dtype
    )
    guarded, y = poisoned(rows, features, y_dtype)
    operands = {"ids": ids, "table": table, "table_scale": scale, "y": y}
    run(KERNEL, problem, operands, team=all_threads(threads))
    expected = rounded(reference.embedding(ids, wide, scale), y_dtype)
    assert np.array_equal(values(y, y_dtype), expected, equal_nan=True)
    assert_guarded(guarded)
