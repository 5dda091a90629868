"""Scales of groups of inputs, and float activations: to the bit the reference, in every tile, batch and kernel.

No torch here: this file runs on an emulated ARM CPU, too.
"""

from dataclasses import replace

import numpy as np
import pytest
from halves import stored, values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from linear_draws import codes, floats, group_scales, weights
from numba_calls import assert_guarded, poisoned, rounded, run_linear

from bitnet_jit import reference
from bitnet_jit.kernels.numba import BACKEND
from bitnet_jit.kernels.numba.arrays import all_threads
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason
from bitnet_jit.kernels.numba.intrinsics.isa import usable_isas
from bitnet_jit.kernels.numba.layout import INPUTS_OF_LAYOUT, LAYOUTS
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem, rows_bucket

QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
LAYOUT = {layout.format.name: layout for layout in LAYOUTS}
OUT_FEATURES = (1, 3, 17, 64, 65, 130, 197)
IN_FEATURES = (1, 15, 16, 33, 65, 127, 320, 517, 1001, 2080)  # up to more groups than are transposed at once
GROUP_SIZES = {"i2": (16, 32, 64, 128, 256, 1024), "t5": (20, 40, 160, 320)}
GROUPED = [("i2", "a8"), ("i2", "a8g"), ("i2", "a16"), ("t5", "a8"), ("t5", "a16")]


def problem_of(op, layout, rows, shape, group_size, activation="a8", x_dtype="float32", y_dtype="float32", bias=""):
    scale = "group" if group_size else "row"
    out_features, in_features = shape
    name = LAYOUT[layout].name
    sizes = (rows_bucket(rows), out_features, in_features)
    return Problem(op, "cpu", *sizes, name, activation, x_dtype, y_dtype, scale, group_size, bias)


def kernels_for(problem):
    """Return the kernels that run a problem on this CPU."""
    return [k for k in BACKEND.kernels() if k.op == problem.op and k.unsupported_reason(problem) is None]


def expected_of(x, w_q, w_scale, bias, group_size, layout, activation):
    """Return what the reference says."""
    arguments = (x, w_q, w_scale, bias, group_size)
    if activation == "a16":
        return reference.bit_linear_a16(*arguments, step=INPUTS_OF_LAYOUT[LAYOUT[layout].name])
    return (reference.bit_linear_a8g if activation == "a8g" else reference.bit_linear)(*arguments)


def check(draw, layout, activation, rows, dtype, group_size):
    """Draw a layer and compare its y to the bit."""
    n, k = draw(st.sampled_from(OUT_FEATURES)), draw(st.sampled_from(IN_FEATURES))
    x, x_wide = floats(draw, rows, k, dtype)
    w_q = weights(draw, n, k)
    w_packed = LAYOUT[layout].from_canonical(LAYOUT[layout].format.pack(w_q), n, k)
    w_scale = group_scales(draw, n, k, group_size or k)
    w_scale = w_scale if group_size else np.ascontiguousarray(w_scale[:, 0])
    bias, bias_wide = stored(np.linspace(-2, 2, n, dtype=np.float32), dtype) if draw(st.booleans()) else (None, None)
    bias_dtype = "" if bias is None else dtype
    problem = problem_of("bit_linear", layout, rows, (n, k), group_size, activation, dtype, dtype, bias_dtype)
    expected = expected_of(x_wide, w_q, w_scale, bias_wide, group_size, layout, activation)
    assert np.isnan(expected[~np.isfinite(x_wide).all(1)]).all() or activation == "a16"
    for kernel in kernels_for(problem):
        for config in kernel.configs(problem)[: None if "amx" in kernel.name else 1]:
            guarded, y = poisoned(rows, n, dtype)
            team = all_threads(draw(st.sampled_from((1, 2))))
            run_linear(kernel, problem, config, x, w_packed, w_scale, bias, y=y, team=team)
            np.testing.assert_array_equal(values(y, dtype), rounded(expected, dtype))
            assert_guarded(guarded)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize(("layout", "activation"), GROUPED)
@QUICK
@given(data=st.data())
def test_groups_equal_the_contract(layout, activation, rows, data):
    check(data.draw, layout, activation, rows, "float32", data.draw(st.sampled_from(GROUP_SIZES[layout])))


@pytest.mark.skipif(amx_unsupported_reason() is not None, reason="this CPU has no AMX")
@pytest.mark.parametrize("rows", [16, 300])
@pytest.mark.parametrize("activation", ["a8", "a8g"])
@QUICK
@given(data=st.data())
def test_several_units_of_the_matrix_unit_give_the_bits_of_the_reference(activation, rows, data):
    check(data.draw, "i2", activation, rows, "float32", data.draw(st.sampled_from(GROUP_SIZES["i2"])))


@pytest.mark.parametrize(("activation", "dtype"), [("a8", "bfloat16"), ("a8g", "float16"), ("a16", "bfloat16")])
@QUICK
@given(data=st.data())
def test_groups_of_half_types_equal_the_contract(activation, dtype, data):
    check(data.draw, "i2", activation, 3, dtype, data.draw(st.sampled_from(GROUP_SIZES["i2"])))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("layout", LAYOUT)
@QUICK
@given(data=st.data())
def test_float_activations_equal_the_contract_with_row_scales(layout, rows, data):
    check(data.draw, layout, "a16", rows, "float32", 0)


@QUICK
@given(data=st.data())
def test_given_codes_equal_the_contract(data):
    draw, rows = data.draw, data.draw(st.sampled_from((1, 5, 70)))
    n, k = draw(st.sampled_from(OUT_FEATURES)), draw(st.sampled_from(IN_FEATURES))
    group_size = draw(st.sampled_from(GROUP_SIZES["i2"]))
    x_q, w_q, w_scale = codes(draw, rows, k), weights(draw, n, k), group_scales(draw, n, k, group_size)
    x_scale = np.linspace(0.5, 2, rows, dtype=np.float32)
    problem = problem_of("quantized_linear", "i2", rows, (n, k), group_size, x_dtype="int8")
    w_packed = LAYOUT["i2"].from_canonical(LAYOUT["i2"].format.pack(w_q), n, k)
    expected = reference.quantized_linear(x_q, x_scale, w_q, w_scale, None, group_size)
    for kernel in kernels_for(problem):
        y = run_linear(kernel, problem, kernel.configs(problem)[0], x_q, w_packed, w_scale, x_scale=x_scale)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("activation", "group_size"), [("a8", 128), ("a8g", 128), ("a16", 128), ("a16", 0)])
def test_a_row_does_not_depend_on_its_batch_config_or_threads(activation, group_size):
    n, k, rng = 200, 500, np.random.default_rng(2)
    w_q, x = rng.integers(-1, 2, (n, k)).astype(np.int8), rng.standard_normal((40, k)).astype(np.float32)
    w_packed = LAYOUT["i2"].from_canonical(LAYOUT["i2"].format.pack(w_q), n, k)
    w_scale = rng.random((n, 4) if group_size else n).astype(np.float32)
    first = None
    for rows in (1, 4, 40):
        problem = problem_of("bit_linear", "i2", rows, (n, k), group_size, activation)
        for kernel in kernels_for(problem):
            for config in kernel.configs(problem)[:2]:
                for threads in (1, 2):
                    part = np.ascontiguousarray(x[:rows])
                    y = run_linear(kernel, problem, config, part, w_packed, w_scale, team=all_threads(threads))
                    first = y[0] if first is None else first
                    np.testing.assert_array_equal(y[0], first)


@pytest.mark.parametrize("isa", usable_isas())
@pytest.mark.parametrize(("layout", "activation"), [("i2", "a8g"), ("i2", "a16")])
def test_every_instruction_set_of_this_cpu_gives_the_contract(layout, activation, isa):
    """Run the sets below the best one, which other people's CPUs have alone; this CPU has them too."""
    group_size, rng = 32, np.random.default_rng(1)
    for m, n, k in ((3, 70, 333), (3, 65, 100)):
        x, w_q = rng.standard_normal((m, k)).astype(np.float32), rng.integers(-1, 2, (n, k)).astype(np.int8)
        w_packed = LAYOUT[layout].from_canonical(LAYOUT[layout].format.pack(w_q), n, k)
        w_scale = rng.random((n, -(-k // group_size))).astype(np.float32)
        problem = problem_of("bit_linear", layout, m, (n, k), group_size, activation)
        (kernel,) = kernels_for(problem)
        tile = kernel.configs(problem)[0].tile
        columns = tile.columns if isa == tile.isa else 1
        config = TeamConfig(replace(tile, isa=isa, rows=m, columns=columns))
        y = run_linear(kernel, problem, config, x, w_packed, w_scale)
        np.testing.assert_array_equal(y, expected_of(x, w_q, w_scale, None, group_size, layout, activation))


@given(seed=st.integers(0, 2**32 - 1), outlier=st.floats(1, 1000))
@example(seed=0, outlier=100.0)
@settings(max_examples=30, deadline=None)
def test_the_error_of_a8g_stays_in_its_group(seed, outlier):
    """A large input costs the others of its row their digits in a8, those of its group alone in a8g."""
    rng = np.random.default_rng(seed)
    x, w_q = rng.standard_normal((4, 1024)).astype(np.float32), rng.integers(-1, 2, (64, 1024)).astype(np.int8)
    x[:, 5] *= np.float32(outlier)
    w_scale = np.abs(1 + 0.1 * rng.standard_normal((64, 8))).astype(np.float32)
    exact, _ = reference.bit_linear_a16_float64(x, w_q, w_scale, None, 128)

    def error(y):
        return np.linalg.norm(y - exact) / np.linalg.norm(exact)

    by_row, by_group = (
        error(op(x, w_q, w_scale, None, 128)) for op in (reference.bit_linear, reference.bit_linear_a8g)
    )
    assert by_group < 1.2 * by_row  # without an outlier they are alike
    x[:, 5] = 300
    exact, _ = reference.bit_linear_a16_float64(x[:, 128:], w_q[:, 128:], w_scale[:, 1:], None, 128)
    w_scale[:, 0] = 0  # the outlier's group takes no part: what it does to the others is left
    assert error(reference.bit_linear_a8g(x, w_q, w_scale, None, 128)) < 0.01
    assert error(reference.bit_linear(x, w_q, w_scale, None, 128)) > 0.2
