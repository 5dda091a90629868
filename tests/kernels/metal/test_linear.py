"""Metal's products by the contract, bit for bit: every kernel and config, ragged and tiny shapes, extreme values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import codes, floats, group_scales, weights
from metal_calls import KERNELS, call, max_examples, needs_clang, packed, problem_of, rounded, tensor

from bitnet_jit import reference
from bitnet_jit.kernels.metal.linear import few, many
from bitnet_jit.kernels.metal.linear.refusals import MAX_EXACT_INPUTS

pytestmark = needs_clang
ROWS = (1, 2, 3, 5, 17)
FEATURES = ((1, 1), (3, 17), (17, 128), (33, 131), (7, 257), (66, 640))
DTYPES = ("float32", "bfloat16", "float16")
ON_CODES = ("fused_bit_linear", "few_bit_linear", "many_bit_linear")
FEW_CONFIGS = (
    few.Config(0, 2, 4, 1, 4),
    few.Config(1, 1, 8, 2, 1),
    few.Config(2, 4, 2, 4, 2),
    few.Config(1, 4, 4, 1, 2),
)
MANY_CONFIGS = (many.Config(2, 2, 1, 2), many.Config(1, 4, 2, 1), many.Config(4, 4, 2, 2))


def configs_of(name):
    """Return some configs of a kernel, of every kind that its space has."""
    return MANY_CONFIGS if name.startswith("many") else FEW_CONFIGS


def fitting(draw, kernel, problems):
    """Draw a number of rows that the kernel takes."""
    return draw(st.sampled_from([rows for rows in ROWS if kernel.unsupported_reason(problems(rows)) is None]))


def scales_of(draw, scale, shape, group_size):
    """Draw scales of a weight."""
    if scale == "group":
        return group_scales(draw, *shape, group_size)
    rng = np.random.default_rng(shape[0])
    return np.asarray(rng.random(shape[0] if scale == "row" else ()) + 0.01, np.float32)


@pytest.mark.parametrize("name", ON_CODES)
@max_examples
@given(data=st.data(), dtype=st.sampled_from(DTYPES), scale=st.sampled_from(["tensor", "row"]), bias=st.booleans())
def test_a_layer_on_codes_is_the_contract_to_the_bit(name, data, dtype, scale, bias):
    kernel, (n, k) = KERNELS[name], data.draw(st.sampled_from(FEATURES))
    fields = {"activation": "a8", "x_dtype": dtype, "y_dtype": dtype, "scale": scale, "bias": "float32" if bias else ""}
    rows = fitting(data.draw, kernel, lambda m: problem_of("bit_linear", (m, n, k), **fields))
    problem = problem_of("bit_linear", (rows, n, k), **fields)
    x, w_q = floats(data.draw, rows, k, dtype)[1], weights(data.draw, n, k)
    w_scale = scales_of(data.draw, scale, (n, k), 0)
    b = np.linspace(-1, 1, n, dtype=np.float32) if bias else None
    config = data.draw(st.sampled_from(configs_of(name)))
    y = call(kernel, problem, config, tensor(x, dtype), packed(w_q), w_scale, b)
    assert np.array_equal(y, rounded(reference.bit_linear(x, w_q, w_scale, b), dtype), equal_nan=True)


@pytest.mark.parametrize("name", ["few", "many"])
@max_examples
@given(data=st.data())
def test_products_of_given_codes_are_exact(name, data):
    (n, k), rows = data.draw(st.sampled_from(FEATURES)), data.draw(st.sampled_from(ROWS))
    x_q, w_q = codes(data.draw, rows, k), weights(data.draw, n, k)
    config = data.draw(st.sampled_from(configs_of(name)))
    problem = problem_of("ternary_matmul", (rows, n, k), activation="a8", x_dtype="int8", y_dtype="int32")
    y = call(KERNELS[f"{name}_ternary_matmul"], problem, config, x_q, packed(w_q))
    assert np.array_equal(y, reference.ternary_matmul(x_q, w_q))
    x_scale = np.linspace(0.01, 1, rows, dtype=np.float32)
    fields = {"activation": "a8", "x_dtype": "int8", "y_dtype": "bfloat16", "scale": "tensor"}
    y = call(
        KERNELS[f"{name}_quantized_linear"],
        problem_of("quantized_linear", (rows, n, k), **fields),
        config,
        *(x_q, x_scale, packed(w_q), np.float32(0.3), None),
    )
    assert np.array_equal(y, rounded(reference.quantized_linear(x_q, x_scale, w_q, np.float32(0.3)), "bfloat16"))


@pytest.mark.parametrize("name", ["few_bit_linear", "many_bit_linear", "few_a16", "many_a16"])
@max_examples
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(["a8", "a8g"]),
    scale=st.sampled_from(["group", "row", "group"]),
)
def test_sums_of_floats_are_near_the_contract(name, data, dtype, activation, scale):
    kernel, (n, k), group_size = (
        KERNELS[name],
        data.draw(st.sampled_from(FEATURES)),
        data.draw(st.sampled_from([16, 64])),
    )
    activation, scale = ("a16", scale) if name.endswith("a16") else (activation, "group")
    fields = {"activation": activation, "x_dtype": dtype, "y_dtype": dtype, "scale": scale}
    fields["group_size"] = group_size if scale == "group" else 0
    rows, rng = data.draw(st.sampled_from(ROWS)), np.random.default_rng(data.draw(st.integers(0, 99)))
    x, w_q = rounded(rng.standard_normal((rows, k)).astype(np.float32), dtype), weights(data.draw, n, k)
    w_scale = scales_of(data.draw, scale, (n, k), group_size)
    of = {"a8": reference.bit_linear, "a8g": reference.bit_linear_a8g, "a16": reference.bit_linear_a16}[activation]
    problem = problem_of("bit_linear", (rows, n, k), **fields)
    config = data.draw(st.sampled_from(configs_of(name)[:2]))  # dot products of bytes are for codes
    y = call(kernel, problem, config, tensor(x, dtype), packed(w_q), w_scale, None)
    sizes = of(np.abs(x), np.abs(w_q), np.abs(w_scale), None, group_size)
    step = {"float32": 0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]  # of the last rounding
    expected = of(x, w_q, w_scale, None, group_size)
    least = 2.0**-24 if dtype == "float16" else 1e-30
    near = np.abs(y - expected) <= (1e-5 + step) * sizes + least
    over = (np.abs(expected) > 65000) & (dtype == "float16")
    assert (near | over).all()


@pytest.mark.parametrize("name", ["fused_bit_linear", "few_bit_linear", "many_bit_linear", "few_a16", "many_a16"])
def test_leading_dimensions_gaps_and_odd_offsets(name):
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.standard_normal((2, 300)).astype(np.float32))
    w_q = rng.integers(-1, 2, (5, 128)).astype(np.int8)
    activation = "a16" if name.endswith("a16") else "a8"
    problem = problem_of("bit_linear", (2, 5, 128), activation=activation, scale="tensor")
    for x in (wide[:, 1:129], wide[:, 3:259:2], wide.flatten()[1:257].view(2, 1, 128)):
        y = call(KERNELS[name], problem, KERNELS[name].configs(problem)[0], x, packed(w_q), np.float32(0.5), None)
        assert y.shape == (*x.shape[:-1], 5)
        of = reference.bit_linear_a16 if activation == "a16" else reference.bit_linear
        expected = of(x.reshape(2, 128).numpy(), w_q, np.float32(0.5))
        assert np.allclose(y.reshape(2, 5), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["few_bit_linear", "many_bit_linear"])
def test_the_order_in_which_threads_run_changes_nothing(name):
    rng = np.random.default_rng(0)
    x, w_q = rng.standard_normal((3, 640)).astype(np.float32), rng.integers(-1, 2, (33, 640)).astype(np.int8)
    w_scale = rng.random((33, 10)).astype(np.float32)
    problem = problem_of("bit_linear", (3, 33, 640), activation="a8", scale="group", group_size=64)
    ys = {call(KERNELS[name], problem, configs_of(name)[0], x, packed(w_q), w_scale, None).tobytes() for _ in range(4)}
    assert len(ys) == 1


def test_refusals_say_what_is_taken():
    def reason(name, **fields):
        shape = fields.pop("shape", (1, 8, 256))
        problem = problem_of("bit_linear", shape, **{"activation": "a8", "scale": "tensor"} | fields)
        return KERNELS[name].unsupported_reason(problem)

    assert reason("few_bit_linear") is None
    assert reason("few_bit_linear", shape=(1, 8, MAX_EXACT_INPUTS)) is None
    assert reason("few_bit_linear", shape=(1, 8, MAX_EXACT_INPUTS + 1)) == (
        "adds codes in float32, exactly up to K = 131071, got K = 131072"
    )
    assert reason("few_a16", shape=(1, 8, MAX_EXACT_INPUTS + 1), activation="a16") is None
    assert reason("few_bit_linear", scale="group", group_size=24) == (
        "takes groups of a multiple of 16 inputs, not of 24"
    )
    assert reason("few_bit_linear", shape=(64, 8, 256)) == "takes up to 16 rows"
    assert reason("fused_bit_linear", scale="group", group_size=64, activation="a8g").endswith(
        "not one per group (a8g)"
    )
    assert reason("few_a16") == "serves activation='a16'"
    assert reason("few_bit_linear", activation="a16") == "serves activation='a8' and 'a8g'"


@pytest.mark.parametrize("name", ["few_ternary_matmul", "many_ternary_matmul"])
def test_the_longest_sums_are_exact(name):
    k = 2**17 - 1
    x_q, w_q = np.full((1, k), -128, np.int8), np.full((2, k), -1, np.int8)
    w_q[1, ::3] = 1
    problem = problem_of("ternary_matmul", (1, 2, k), activation="a8", x_dtype="int8", y_dtype="int32")
    y = call(KERNELS[name], problem, configs_of(name)[0], x_q, packed(w_q))
    assert np.array_equal(y, reference.ternary_matmul(x_q, w_q))
