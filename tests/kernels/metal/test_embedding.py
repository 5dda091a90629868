"""Metal's look-up of rows has the bits of the reference, in tables of every sort."""

import numpy as np
import pytest
from halves import values
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import codes, floats, weights
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit import reference
from bitnet_jit.kernels.metal.layout import I2, I2_WORDS
from bitnet_jit.kernels.metal.rowwise import embedding
from bitnet_jit.problem import Problem, rows_bucket, scale_shape

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

IDS = st.lists(st.integers(-2, 18), min_size=1, max_size=5)
SHAPES = st.sampled_from([(1, 1), (3, 17), (17, 257), (7, 128)])


def run(problem, ids, bind, tensors, seed):
    """Return the rows of ids as float32, which were poisoned before."""
    outputs = {"y": ((len(ids), problem.in_features), problem.y_dtype)}
    result = run_bound(bind(problem, None), len(ids), {"ids": ids, **tensors}, outputs, seed)
    return values(result["y"], problem.y_dtype)


@pytest.mark.parametrize(("dtype", "ids_dtype"), [("float32", "int64"), ("bfloat16", "int32"), ("int8", "int64")])
@given(data=st.data(), ids=IDS, shape=SHAPES)
def test_rows_of_tables(dtype, ids_dtype, data, ids, shape):
    ids, scale = np.array(ids, ids_dtype), None
    if dtype == "int8":
        table = wide = codes(data.draw, *shape)
        scale = np.linspace(0, 2, shape[0], dtype=np.float32)
    else:
        table, wide = floats(data.draw, *shape, dtype)
    problem = Problem(
        "embedding", "mlx", rows_bucket(len(ids)), *shape, x_dtype=ids_dtype, y_dtype="float32", w_dtype=dtype
    )
    y = run(problem, ids, embedding.bind, {"table": table, "table_scale": scale}, len(ids))
    assert np.array_equal(y, reference.embedding(ids, wide, scale), equal_nan=True)


@pytest.mark.parametrize("scale", ["tensor", "row", "group"])
@given(data=st.data(), ids=IDS, shape=SHAPES, group_size=st.sampled_from([16, 32, 300]))
def test_rows_of_packed_tables(scale, data, ids, shape, group_size):
    ids, w_q = np.array(ids, np.int64), weights(data.draw, *shape)
    group_size = min(group_size, shape[1]) if scale == "group" else 0
    kind = scale_shape(scale, *shape, group_size)
    w_scale = np.linspace(0.5, 2, int(np.prod(kind)), dtype=np.float32).reshape(kind)
    problem = Problem(
        "packed_embedding", "mlx", rows_bucket(len(ids)), *shape, I2_WORDS.name, x_dtype="int64", y_dtype="bfloat16",
        scale=scale, group_size=group_size,
    )  # fmt: skip
    packed = I2_WORDS.from_canonical(I2.pack(w_q), *shape)
    y = run(problem, ids, embedding.bind_packed, {"w_packed": packed, "w_scale": w_scale}, len(ids))
    per_row = w_scale.repeat(group_size, 1)[:, : shape[1]] if scale == "group" else w_scale.reshape(-1, 1)
    wanted = reference.embedding(ids, w_q * per_row)
    assert np.array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_allclose(y, wanted, rtol=2.0**-8, atol=0)


def test_a_packed_table_of_another_layout_is_refused():
    problem = Problem("packed_embedding", "mlx", 1, 8, 64, "i2/planes", x_dtype="int64", scale="tensor")
    (_, kernel) = embedding.kernels("mlx")
    assert "reads the layout i2/words" in kernel.unsupported_reason(problem)
