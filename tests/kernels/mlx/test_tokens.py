"""Both ends of a step, the head and the quantizer of weights in MLX's own operations, against the reference."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import weights
from logits_draws import logits_draws
from mlx_calls import bound_call, laid, run_rows, to_array, to_numpy

from bitnet_jit import reference
from bitnet_jit.problem import SCALES, Problem, scale_shape

IDS = st.lists(st.integers(-2, 9) | st.sampled_from([-(2**63), 2**63 - 1]), max_size=9)
LAYOUTS = ("i2/words", "i2", "t5")
HALVES = ("float32", "float16", "bfloat16")


@given(logits=logits_draws(), padded=st.integers(0, 3), with_positions=st.booleans())
def test_largest_logits(logits, padded, with_positions):
    before = np.arange(len(logits), dtype=np.int32) - padded
    problem = Problem("greedy", "mlx", len(logits), logits.shape[1], logits.shape[1], bias="int32" * with_positions)
    call = bound_call("mlx.plain_greedy", problem, (len(logits),))
    tokens = mx.full((len(logits),), 77, dtype=mx.int64)
    results = call(mx.array(logits), tokens, mx.array(before) if with_positions else None)
    largest, code, new_tokens, *positions = map(to_numpy, results)
    expected, expected_largest, expected_code = reference.greedy(logits)
    assert new_tokens.tolist() == expected.tolist()
    assert code.tolist() == expected_code.tolist()
    assert np.array_equal(largest.view(np.int32), expected_largest.view(np.int32))
    assert tokens.tolist() == [77] * len(logits)  # arrays stay as they are
    assert [p.tolist() for p in positions] == [np.where(before < 0, before, before + 1).tolist()] * with_positions


@given(ids=IDS, is_int8=st.booleans(), dtype=st.sampled_from(HALVES))
def test_rows_of_ids(ids, is_int8, dtype):
    rng, scale = np.random.default_rng(len(ids)), None
    table = rng.standard_normal((8, 5)).astype(np.float32)
    if is_int8:
        table, scale = (table * 40).astype(np.int8), rng.random(8).astype(np.float32)
    ids = np.array(ids, np.int64)
    problem = Problem("embedding", "mlx", 1, 8, 5, x_dtype="int64", y_dtype=dtype, w_dtype=table.dtype.name)
    (y,) = run_rows("mlx.plain_embedding", problem, mx.array(ids), mx.array(table), to_array(scale))
    np.testing.assert_array_equal(y, in_dtype(reference.embedding(ids, table, scale), dtype))


def in_dtype(numbers, dtype):
    """Return numbers rounded to a dtype, as `run_rows` gives them."""
    return to_numpy(mx.array(numbers).astype(getattr(mx, dtype)))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(ids=IDS, scale=st.sampled_from(SCALES), dtype=st.sampled_from(HALVES), data=st.data())
def test_rows_of_ids_in_packed_tables_and_whole_ones(layout, ids, scale, dtype, data):
    w_q, group_size = weights(data.draw, 8, 7), 3 if scale == "group" else 0
    w_scale = np.random.default_rng(0).random(scale_shape(scale, 8, 7, group_size)).astype(np.float32)
    w = (w_q * reference.expand_scale(w_scale, w_q.shape, group_size)).astype(np.float32)
    sizes = {"layout": layout, "y_dtype": dtype, "scale": scale, "group_size": group_size}
    problem = Problem("packed_embedding", "mlx", 1, 8, 7, x_dtype="int64", **sizes)
    packed, ids = laid(w_q, layout), np.array(ids, np.int64)
    (y,) = run_rows("mlx.plain_packed_embedding", problem, mx.array(ids), packed, mx.array(w_scale))
    np.testing.assert_array_equal(y, in_dtype(reference.embedding(ids, w), dtype))
    (y,) = run_rows(
        "mlx.plain_dequantize_weight", Problem("dequantize_weight", "mlx", 1, 8, 7, **sizes), packed, mx.array(w_scale)
    )
    np.testing.assert_array_equal(y, in_dtype(w, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(
    shape=st.tuples(st.sampled_from((1, 3, 17)), st.sampled_from((1, 3, 33, 131))),
    size=st.sampled_from((0.0, 1e-30, 0.02, 1e30)),
    dtype=st.sampled_from(("float32", "float16")),
)
def test_weights_are_quantized_as_the_reference_does(layout, shape, size, dtype):
    weight = (np.random.default_rng(shape[1]).standard_normal(shape) * size).astype(np.float32)
    weight = np.clip(weight, -6e4, 6e4).astype(dtype) if dtype == "float16" else weight
    problem = Problem("quantize_weight", "mlx", 1, *shape, layout, x_dtype=dtype, scale="tensor")
    packed, scale = run_rows("mlx.plain_quantize_weight", problem, mx.array(weight))
    w_q, w_scale = reference.quantize_weight(weight)
    assert scale.dtype == np.float32
    assert scale == w_scale
    np.testing.assert_array_equal(packed, to_numpy(laid(w_q, layout)))


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from((0, 1, 3, 17)),
    outputs=st.sampled_from((1, 3, 33)),
    inputs=st.sampled_from((1, 2, 33, 1024, 1025, 2050)),
    bad=st.sampled_from((0.0, float("nan"), float("inf"))),
)
def test_heads_of_int8_equal_the_reference(seed, rows, outputs, inputs, bad):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    x[-1:, 0] += bad
    x[:1] *= 1e-7
    head, scale = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8), rng.random(outputs).astype(np.float32)
    problem = Problem("head_logits", "mlx", 1, outputs, inputs, w_dtype="int8")
    (logits,) = run_rows("mlx.plain_head_logits", problem, *map(mx.array, (x, head, scale)))
    np.testing.assert_array_equal(logits, reference.head_logits(x, head, scale))


@pytest.mark.parametrize("code", [127, -128])
def test_the_longest_sums_of_heads_are_exact(code):
    x, head, scale = np.full((2, 2**16), 3, np.float32), np.full((1, 2**16), code, np.int8), np.ones(1, np.float32)
    problem = Problem("head_logits", "mlx", 1, 1, 2**16, w_dtype="int8")
    (logits,) = run_rows("mlx.plain_head_logits", problem, *map(mx.array, (x, head, scale)))
    np.testing.assert_array_equal(logits, reference.head_logits(x, head, scale))


@pytest.mark.parametrize("dtype", HALVES)
def test_heads_of_floats_in_pieces_are_the_whole(monkeypatch, dtype):
    from bitnet_jit.kernels.mlx.plain import head as pieces

    monkeypatch.setattr(pieces, "CHUNK_ELEMENTS", 40 * 64)
    rng = np.random.default_rng(0)
    x, head = rng.standard_normal((3, 40)).astype(np.float32), rng.standard_normal((1000, 40)).astype(np.float32)
    problem = Problem("head_logits", "mlx", 1, 1000, 40, w_dtype=dtype)
    (logits,) = run_rows("mlx.plain_head_logits", problem, mx.array(x), mx.array(head).astype(getattr(mx, dtype)), None)
    assert np.allclose(logits, x @ in_dtype(head, dtype).T, atol=1e-4)
