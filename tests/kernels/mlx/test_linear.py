"""Linear kernels of MLX, plain and by `mx.quantized_matmul`: the contract on any layout, shape and scale."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import codes, floats, group_scales, weights
from mlx_calls import KERNELS, laid, run_rows, to_array, to_numpy
from numba_calls import rounded

from bitnet_jit import reference
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import Problem, scale_shape

SHAPES = st.tuples(
    st.sampled_from((0, 1, 3, 17)), st.sampled_from((1, 3, 17, 33, 67)), st.sampled_from((1, 3, 17, 33, 127, 128, 131))
)
LAYOUTS = ("i2/words", "i2", "t5")
KINDS = ("plain", "quantized")
DTYPES = ("float32", "float16", "bfloat16")


def problem_of(op, shape, layout, kind="tensor", activation="a8", dtype="float32", group_size=0):
    """The problem of a call, whose x and y have one dtype."""
    return Problem(op, "mlx", 1, *shape[1:], layout, activation, dtype, dtype, kind, group_size)


def layouts_of(kind):
    """The layouts that kernels of a kind read."""
    return LAYOUTS if kind == "plain" else LAYOUTS[:1]


EACH = [pytest.param(kind, layout, id=f"{kind}-{layout}") for kind in KINDS for layout in layouts_of(kind)]
of_each = pytest.mark.parametrize(("kind", "layout"), EACH)


@of_each
@given(data=st.data(), shape=SHAPES)
def test_matmul_is_exact(kind, layout, data, shape):
    x_q, w_q = codes(data.draw, shape[0], shape[2]), weights(data.draw, *shape[1:])
    problem = problem_of("ternary_matmul", shape, layout, "", "a8", "int32")
    for config in range(len(KERNELS[f"mlx.{kind}_ternary_matmul"].all_configs(problem))):
        (acc,) = run_rows(f"mlx.{kind}_ternary_matmul", problem, mx.array(x_q), laid(w_q, layout), config=config)
        assert acc.dtype == np.int32
        assert np.array_equal(acc, reference.ternary_matmul(x_q, w_q))


@of_each
@given(data=st.data(), shape=SHAPES, scale=st.sampled_from(("tensor", "row")), dtype=st.sampled_from(DTYPES))
def test_layers_are_the_contract_bit_for_bit(kind, layout, data, shape, scale, dtype):
    x, wide = floats(data.draw, shape[0], shape[2], dtype)
    w_q = weights(data.draw, *shape[1:])
    w_scale = np.linspace(1e-3, 2, w_q.shape[0], dtype=np.float32)[: None if scale == "row" else 1]
    w_scale = w_scale if scale == "row" else w_scale.reshape(())
    bias = np.linspace(-1, 1, len(w_q), dtype=np.float32) if data.draw(st.booleans()) else None
    problem = problem_of("bit_linear", shape, layout, scale, dtype=dtype)
    arrays = laid(w_q, layout), mx.array(w_scale), to_array(bias)
    (y,) = run_rows(f"mlx.{kind}_bit_linear", problem, to_array(x, dtype), *arrays)
    expected = rounded(reference.bit_linear(wide, w_q, w_scale, bias), dtype)
    np.testing.assert_array_equal(y.astype(np.float32), expected)


@of_each
@given(data=st.data(), shape=SHAPES, group_size=st.sampled_from((32, 64, 128)))
def test_group_scales_stay_in_their_bound(kind, layout, data, shape, group_size):
    x = np.random.default_rng(shape[0]).standard_normal((shape[0], shape[2])).astype(np.float32)
    w_q = weights(data.draw, *shape[1:])
    w_scale = np.abs(group_scales(data.draw, *w_q.shape, group_size))
    problem = problem_of("bit_linear", shape, layout, "group", group_size=group_size)
    (y,) = run_rows(f"mlx.{kind}_bit_linear", problem, mx.array(x), laid(w_q, layout), mx.array(w_scale), None)
    x_q, x_scale = reference.quantize_activation(x)
    exact, _ = reference.bit_linear_a16_float64(x_q, w_q, w_scale, group_size=group_size)
    _, magnitude = reference.bit_linear_a16_float64(x_q, np.ones_like(w_q), w_scale, group_size=group_size)
    bound = 400 * 2.0**-23 * magnitude * x_scale[:, None] + 1e-37
    assert (np.abs(y - exact * x_scale[:, None]) <= bound).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data(), shape=SHAPES, group_size=st.sampled_from((1, 3, 32, 1000)), by_group=st.booleans())
def test_plain_groups_are_the_contract_bit_for_bit(layout, data, shape, group_size, by_group):
    x, _ = floats(data.draw, shape[0], shape[2], "float32")
    w_q = weights(data.draw, *shape[1:])
    w_scale = group_scales(data.draw, *w_q.shape, group_size)
    problem = problem_of("bit_linear", shape, layout, "group", "a8g" if by_group else "a8", group_size=group_size)
    (y,) = run_rows("mlx.plain_bit_linear", problem, mx.array(x), laid(w_q, layout), mx.array(w_scale), None)
    expect = reference.bit_linear_a8g if by_group else reference.bit_linear
    np.testing.assert_array_equal(y, expect(x, w_q, w_scale, None, group_size))


@of_each
@pytest.mark.parametrize("scale", ["tensor", "row", "group"])
@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(DTYPES))
def test_float_activations_stay_in_their_bound(kind, layout, scale, data, shape, dtype):
    x, wide = floats(data.draw, shape[0], shape[2], dtype)
    w_q = weights(data.draw, *shape[1:])
    group_size = 32 if scale == "group" else 0
    w_scale = np.asarray(np.linspace(0.1, 2, 5000), np.float32)[: int(np.prod(shape_of(scale, w_q, group_size)))]
    w_scale = w_scale.reshape(shape_of(scale, w_q, group_size))
    problem = problem_of("bit_linear", shape, layout, scale, "a16", dtype, group_size)
    arrays = to_array(x, dtype), laid(w_q, layout), mx.array(w_scale), None
    (y,) = run_rows(f"mlx.{kind}_bit_linear_a16", problem, *arrays)
    exact, _ = reference.bit_linear_a16_float64(wide, w_q, w_scale, group_size=group_size)
    _, magnitude = reference.bit_linear_a16_float64(wide, np.ones_like(w_q), w_scale, group_size=group_size)
    finite = np.isfinite(wide).all(1) & (np.abs(wide).max(1, initial=0) < 1e37)  # a code of 2 doubles x before
    step = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    with np.errstate(invalid="ignore"):
        bound = (2 * shape[2] + 8) * 2.0**-23 * magnitude + step * np.abs(exact) + 1e-7
        near = np.abs(y - exact) <= bound
    largest = 65000 if dtype == "float16" else 3e38
    assert (near | (np.abs(exact) > largest))[finite].all()


def shape_of(scale, w_q, group_size):
    return scale_shape(scale, *w_q.shape, group_size)


@pytest.mark.parametrize("name", ["plain", "quantized"])
def test_the_longest_sums_are_exact(name):
    in_features = 2**18 if name == "plain" else 2**17 - 1
    x_q = np.stack([np.full(in_features, -128, np.int8), np.tile(np.int8([127, -128]), in_features)[:in_features]])
    w_q = np.stack([np.full(in_features, -1, np.int8), np.tile(np.int8([1, -1]), in_features)[:in_features]])
    problem = problem_of("ternary_matmul", (2, 2, in_features), "i2/words", "", "a8", "int32")
    (acc,) = run_rows(f"mlx.{name}_ternary_matmul", problem, mx.array(x_q), laid(w_q, "i2/words"))
    assert np.array_equal(acc, reference.ternary_matmul(x_q, w_q))


def test_large_weights_are_unpacked_in_pieces(monkeypatch):
    from bitnet_jit.kernels import unpacking

    monkeypatch.setattr(unpacking, "CHUNK_ELEMENTS", 40)
    rng = np.random.default_rng(0)
    x, w_q = rng.standard_normal((3, 17)).astype(np.float32), rng.integers(-1, 2, (33, 17)).astype(np.int8)
    w_scale = rng.random(33).astype(np.float32)
    problem = problem_of("bit_linear", (3, 33, 17), "i2/words", "row")
    (y,) = run_rows("mlx.plain_bit_linear", problem, mx.array(x), laid(w_q, "i2/words"), mx.array(w_scale), None)
    np.testing.assert_array_equal(y, reference.bit_linear(x, w_q, w_scale))
    grad = problem_of("bit_linear_input_grad", (3, 33, 17), "i2/words", "row")
    dy = rng.standard_normal((3, 33)).astype(np.float32)
    (dx,) = run_rows("mlx.plain_bit_linear_input_grad", grad, mx.array(dy), laid(w_q, "i2/words"), mx.array(w_scale))
    np.testing.assert_allclose(dx, dy @ (w_q * w_scale[:, None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_packings_move_bits_of_arrays_as_of_others(format):
    w_q = np.random.default_rng(1).integers(-1, 2, (5, 33)).astype(np.int8)
    packed = FORMATS[format].pack(mx.array(w_q))
    assert np.array_equal(to_numpy(packed), FORMATS[format].pack(w_q))
    assert np.array_equal(to_numpy(FORMATS[format].unpack(packed, 33)), w_q)
