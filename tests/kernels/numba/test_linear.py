"""Every linear kernel and config of the Numba backend against the reference; tensor and row scales bit for bit.

No torch here: this file runs on an emulated ARM CPU, too. BITNET_JIT_TEST_CONFIGS=first tries one config per kernel.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from halves import stored, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linear_draws import codes, floats, weights
from numba_calls import assert_guarded, poisoned, rounded, run_linear

from bitnet_jit import reference
from bitnet_jit.kernels.numba import BACKEND
from bitnet_jit.kernels.numba.arrays import all_threads
from bitnet_jit.kernels.numba.intrinsics.isa import usable_isas
from bitnet_jit.kernels.numba.layout import LAYOUTS
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem, rows_bucket

LAYOUT = {layout.format.name: layout for layout in LAYOUTS}
OUT_FEATURES = (1, 3, 17, 33, 64, 65, 130)  # below, at and above a block of 64; primes and one
IN_FEATURES = (1, 2, 3, 15, 16, 17, 20, 21, 33, 63, 64, 65, 127, 320, 1001)  # around the steps of 16, 20 and 64
FIRST_ONLY = os.environ.get("BITNET_JIT_TEST_CONFIGS") == "first"
QUICK = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def problem_of(op, layout, rows, out_features, in_features, **fields):
    fields = {"activation": "a8", "x_dtype": "int8", "y_dtype": "int32", **fields}
    return Problem(op, "cpu", rows_bucket(rows), out_features, in_features, layout, **fields)


def kernels_of(op, activation="a8"):
    """Yield (kernel, layout, rows, config) of every kernel of an op that this CPU can run, at 1 row and at more."""
    for kernel in BACKEND.kernels():
        for layout in LAYOUTS:
            for rows in (1, 64) if kernel.op == op else ():
                problem = problem_of(op, layout.name, rows, 64, 64, activation=activation)
                if kernel.unsupported_reason(problem) is None:
                    configs = list({config.tile: config for config in kernel.configs(problem)}.values())
                    for config in configs[:1] if FIRST_ONLY else configs:
                        yield pytest.param(
                            kernel, layout, rows, config, id=f"{kernel.name}-{layout.name}-{rows}-{config}"
                        )


def row_counts(config, rows):
    """Return numbers of rows that make few different tiles, to spare compilations: one tile, uneven tiles, none."""
    height = getattr(config.tile, "rows", 16)
    return (1,) if rows == 1 else (height, 2 * height + 1, 5 * height, 0)


@pytest.mark.parametrize(("kernel", "layout", "rows", "config"), list(kernels_of("ternary_matmul")))
@QUICK
@given(data=st.data())
def test_ternary_matmul_is_exact(kernel, layout, rows, config, data):
    m = data.draw(st.sampled_from(row_counts(config, rows)))
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    x_q, w_q = codes(data.draw, m, k), weights(data.draw, n, k)
    w_packed = layout.from_canonical(layout.format.pack(w_q), n, k)
    guarded, y = poisoned(m, n, "int32")
    team = all_threads(data.draw(st.sampled_from((1, 2))))
    run_linear(kernel, problem_of(kernel.op, layout.name, rows, n, k), config, x_q, w_packed, y=y, team=team)
    np.testing.assert_array_equal(y, reference.ternary_matmul(x_q, w_q))
    assert_guarded(guarded)


@pytest.mark.parametrize("k", [4096, 8192, 2**18])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_long_sums_are_exact(layout, rows, k):
    rng = np.random.default_rng(k)
    x_q = np.full((rows, k), -128, np.int8)
    w_q = np.stack([np.ones(k, np.int8), -np.ones(k, np.int8), rng.integers(-1, 2, k).astype(np.int8)])
    w_packed = layout.from_canonical(layout.format.pack(w_q), 3, k)
    problem = problem_of("ternary_matmul", layout.name, rows, 3, k)
    for kernel in BACKEND.kernels():
        if kernel.op == problem.op and kernel.unsupported_reason(problem) is None:
            y = run_linear(kernel, problem, kernel.configs(problem)[0], x_q, w_packed)
            np.testing.assert_array_equal(y, reference.ternary_matmul(x_q, w_q))


def first_of(cases, count=1):
    """Yield the first configs of each kernel, layout and number of rows."""
    seen: dict[object, int] = {}
    for case in cases:
        key = case.values[:3]
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= count:
            yield case


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("kernel", "layout", "rows", "config"), list(first_of(kernels_of("bit_linear"))))
@QUICK
@given(data=st.data())
def test_bit_linear_equals_the_contract(kernel, layout, rows, config, dtype, data):
    m = 1 if rows == 1 else data.draw(st.sampled_from((2, 17)))
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    x, x_wide = floats(data.draw, m, k, dtype)
    w_q = weights(data.draw, n, k)
    w_packed = layout.from_canonical(layout.format.pack(w_q), n, k)
    scale = data.draw(st.sampled_from(("tensor", "row")))
    rng = np.random.default_rng(n)
    w_scale = np.float32(rng.random() + 1e-3) if scale == "tensor" else rng.random(n).astype(np.float32)
    w_scale = np.asarray(w_scale, np.float32)
    bias, bias_wide = (
        stored(rng.standard_normal(n).astype(np.float32), dtype) if data.draw(st.booleans()) else (None, None)
    )
    problem = problem_of(
        "bit_linear",
        layout.name,
        rows,
        n,
        k,
        x_dtype=dtype,
        y_dtype=dtype,
        scale=scale,
        bias=dtype if bias is not None else "",
    )
    guarded, y = poisoned(m, n, dtype)
    team = all_threads(data.draw(st.sampled_from((1, 2))))
    run_linear(kernel, problem, config, x, w_packed, w_scale, bias, y=y, team=team)
    expected = reference.bit_linear(x_wide, w_q, w_scale, bias_wide)
    np.testing.assert_array_equal(values(y, dtype), rounded(expected, dtype))
    assert_guarded(guarded)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("kernel", "layout", "rows", "config"), list(first_of(kernels_of("bit_linear", "a16"))))
@QUICK
@given(data=st.data())
def test_float_activations(kernel, layout, rows, config, dtype, data):
    m = 1 if rows == 1 else data.draw(st.sampled_from((2, 17)))
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, x_wide = stored(rng.standard_normal((m, k)).astype(np.float32), dtype)
    w_q = weights(data.draw, n, k)
    w_packed = layout.from_canonical(layout.format.pack(w_q), n, k)
    w_scale = rng.random(n).astype(np.float32)
    problem = problem_of(
        "bit_linear", layout.name, rows, n, k, x_dtype=dtype, y_dtype=dtype, scale="row", activation="a16"
    )
    guarded, y = poisoned(m, n, dtype)
    run_linear(kernel, problem, config, x, w_packed, w_scale, y=y)
    expected, bound = reference.bit_linear_a16_float64(x_wide, w_q, w_scale)
    eps = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    tolerance = 64 * 2.0**-24 * bound + eps * np.abs(expected) * 1.01 + (6e-8 if dtype == "float16" else 0)
    assert (np.abs(values(y, dtype) - expected) <= tolerance).all()
    assert_guarded(guarded)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_activations_pass_nan_and_infinity_in_their_row_only(bad):
    layout = LAYOUT["i2"]
    x = np.ones((3, 40), np.float32)
    x[1, 7] = bad
    w_q = np.ones((5, 40), np.int8)
    problem = problem_of(
        "bit_linear", layout.name, 3, 5, 40, x_dtype="float32", y_dtype="float32", scale="tensor", activation="a16"
    )
    (kernel,) = [k for k in BACKEND.kernels() if k.op == "bit_linear" and k.unsupported_reason(problem) is None]
    w_packed = layout.from_canonical(layout.format.pack(w_q), 5, 40)
    y = run_linear(kernel, problem, kernel.configs(problem)[0], x, w_packed, np.asarray(1, np.float32))
    assert not np.isfinite(y[1]).any()
    np.testing.assert_array_equal(y[[0, 2]], 40)


@pytest.mark.parametrize("isa", usable_isas())
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_instruction_set_of_this_cpu_gives_the_same(layout, isa):
    """Run the sets below the best one, which other people's CPUs have alone; this CPU has them too."""
    rng = np.random.default_rng(1)
    for m, n, k in ((1, 70, 333), (3, 65, 100), (8, 17, 64)):
        x_q = rng.integers(-128, 128, (m, k)).astype(np.int8)
        x_q[0] = -128
        w_q = rng.integers(-1, 2, (n, k)).astype(np.int8)
        w_q[0], w_q[1] = 1, -1
        w_packed = layout.from_canonical(layout.format.pack(w_q), n, k)
        problem = problem_of("ternary_matmul", layout.name, m, n, k)
        (kernel,) = [k for k in BACKEND.kernels() if k.name == "numba.ternary_matmul"]
        tile = kernel.configs(problem)[-1].tile
        config = TeamConfig(replace(tile, isa=isa, rows=min(m, 4), columns=1))
        y = run_linear(kernel, problem, config, x_q, w_packed)
        np.testing.assert_array_equal(y, reference.ternary_matmul(x_q, w_q))


def test_a_row_does_not_depend_on_its_batch_kernel_config_or_threads():
    layout, n, k = LAYOUT["i2"], 200, 500
    rng = np.random.default_rng(2)
    w_q = rng.integers(-1, 2, (n, k)).astype(np.int8)
    w_packed = layout.from_canonical(layout.format.pack(w_q), n, k)
    w_scale, x = np.asarray(0.37, np.float32), rng.standard_normal((64, k)).astype(np.float32)
    results = []
    for rows in (1, 2, 17, 64):
        fields = {"x_dtype": "float32", "y_dtype": "float32", "scale": "tensor"}
        problem = problem_of("bit_linear", layout.name, rows, n, k, **fields)
        for kernel in BACKEND.kernels():
            if kernel.op == "bit_linear" and kernel.unsupported_reason(problem) is None:
                for config in kernel.configs(problem)[:2]:
                    for threads in (1, 2):
                        part = np.ascontiguousarray(x[:rows])
                        y = run_linear(kernel, problem, config, part, w_packed, w_scale, team=all_threads(threads))
                        results.append(y[0])
    assert len(results) >= 8
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_refusals_are_words():
    for kernel in BACKEND.kernels():
        if kernel.op == "ternary_matmul":
            assert "layout" in kernel.unsupported_reason(problem_of(kernel.op, "i2", 4, 64, 64))
