"""Every config of the Numba backend's head kernel against the reference: int8 bit for bit, floats within their bound.

No torch here: this file runs on an emulated ARM CPU, too. BITNET_JIT_TEST_CONFIGS=first tries one config per kernel.
"""

import os
from dataclasses import replace

import linear_draws
import numpy as np
import pytest
from halves import stored, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba_calls import assert_guarded, poisoned

from bitnet_jit import reference
from bitnet_jit.kernels.numba.arrays import all_threads, run
from bitnet_jit.kernels.numba.head.logits import KERNELS
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, usable_isas
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem, rows_bucket

(KERNEL,) = KERNELS
FLOATS = ("bfloat16", "float16", "float32")
OUT_FEATURES = (1, 3, 17, 33, 48, 49, 131)  # around a tile and a block of 48; primes and one
IN_FEATURES = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 320, 1001)  # around the steps of 16, 32 and 64
FIRST_ONLY = os.environ.get("BITNET_JIT_TEST_CONFIGS") == "first"
QUICK = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def problem_of(rows, out_features, in_features, w_dtype, x_dtype="float32"):
    return Problem("head_logits", "cpu", rows_bucket(rows), out_features, in_features, x_dtype=x_dtype, w_dtype=w_dtype)


def configs_of(w_dtype, rows):
    """Yield the configs at a number of rows, each tile once."""
    configs = list({config.tile: config for config in KERNEL.configs(problem_of(rows, 64, 64, w_dtype))}.values())
    return configs[:1] if FIRST_ONLY else configs


def cases(w_dtypes):
    for w_dtype in w_dtypes:
        for rows in (1, 2, 4, 16):
            # all tiles read bfloat16 and int8, others share everything but the widening
            for config in configs_of(w_dtype, rows)[: None if w_dtype in ("bfloat16", "int8") else 1]:
                shape = f"{config.tile.rows}x{config.tile.outputs}"
                yield pytest.param(w_dtype, rows, config, id=f"{w_dtype}-{rows}-{shape}")


def logits(problem, config, x, head, scale=None, threads=1):
    """Run the kernel on an output that is NaN before; nothing around it may change."""
    guarded, y = poisoned(len(x), problem.out_features, "float32")
    run(KERNEL, problem, {"x": x, "head": head, "head_scale": scale, "logits": y}, config, all_threads(threads))
    assert_guarded(guarded)
    return y


def floats(draw, rows, columns, dtype):
    """Draw rows of every sort, halves among the steps of 15 bits."""
    return linear_draws.floats(draw, rows, columns, dtype, halves=(-(2**16), 2**16), largest=16256)


def codes(draw, rows, columns):
    """Draw int8 of every sort: all values, one extreme, zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "127", "-128", "zeros", "edges"]))
    if kind == "random":
        return rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    if kind == "edges":
        return rng.choice(np.array([-128, 127, 0], np.int8), (rows, columns))
    return np.full((rows, columns), 0 if kind == "zeros" else int(kind), np.int8)


def row_count(draw, config, rows):
    """Draw a number of rows that makes few different tiles, to spare compilations: one tile, uneven tiles."""
    return rows if rows <= 4 else draw(st.sampled_from((config.tile.rows, 6 * config.tile.rows, 40)))


@pytest.mark.parametrize(("w_dtype", "rows", "config"), list(cases(["int8"])))
@QUICK
@given(data=st.data())
def test_int8_equals_the_contract(w_dtype, rows, config, data):
    m = row_count(data.draw, config, rows)
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    x, _ = floats(data.draw, m, k, "float32")
    head, scale = codes(data.draw, n, k), np.random.default_rng(n).random(n).astype(np.float32)
    y = logits(problem_of(m, n, k, w_dtype), config, x, head, scale, data.draw(st.sampled_from((1, 2))))
    np.testing.assert_array_equal(y, reference.head_logits(x, head, scale))


@pytest.mark.parametrize("x_dtype", ["bfloat16", "float16"])
@QUICK
@given(data=st.data())
def test_int8_of_hidden_states_in_16_bits_equals_the_contract(x_dtype, data):
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    x, x_wide = floats(data.draw, 3, k, x_dtype)
    head, scale = codes(data.draw, n, k), np.random.default_rng(n).random(n).astype(np.float32)
    problem = problem_of(3, n, k, "int8", x_dtype)
    y = logits(problem, KERNEL.configs(problem)[0], x, head, scale)
    np.testing.assert_array_equal(y, reference.head_logits(x_wide, head, scale))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("code", [127, -128])
def test_the_longest_sums_are_exact(rows, code):
    k = 2**16
    x = np.full((rows, k), 3.0, np.float32)
    x[-1, ::2] *= -1
    head, scale = np.full((5, k), code, np.int8), np.ones(5, np.float32)
    head[3, : k // 2] = 0
    problem = problem_of(rows, 5, k, "int8")
    y = logits(problem, KERNEL.configs(problem)[0], x, head, scale)
    np.testing.assert_array_equal(y, reference.head_logits(x, head, scale))


@pytest.mark.parametrize("isa", usable_isas())
def test_every_instruction_set_of_this_cpu_gives_the_same(isa):
    """Run the sets below the best one, which other people's CPUs have alone; this CPU has them too."""
    rng = np.random.default_rng(1)
    for m, n, k in ((1, 37, 333), (2, 17, 64)):
        x = rng.standard_normal((m, k)).astype(np.float32)
        head, scale = rng.integers(-128, 128, (n, k)).astype(np.int8), rng.random(n).astype(np.float32)
        head[0], head[1] = -128, 127
        problem = problem_of(m, n, k, "int8")
        tile = replace(KERNEL.configs(problem)[0].tile, isa=isa, rows=m, outputs=2)
        assert tile.registers <= ISAS[isa].registers
        y = logits(problem, TeamConfig(tile), x, head, scale)
        np.testing.assert_array_equal(y, reference.head_logits(x, head, scale))


@pytest.mark.parametrize(("w_dtype", "rows", "config"), list(cases(FLOATS)))
@QUICK
@given(data=st.data())
def test_floats_are_within_their_bound(w_dtype, rows, config, data):
    m = row_count(data.draw, config, rows)
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((m, k)).astype(np.float32)
    head, head_wide = stored(rng.standard_normal((n, k)).astype(np.float32), w_dtype)
    y = logits(problem_of(m, n, k, w_dtype), config, x, head, threads=data.draw(st.sampled_from((1, 2))))
    expected, bound = reference.head_logits_float64(x, head_wide)
    # 16 lanes: each sum has k / 16 terms and a few more
    assert (np.abs(y - expected) <= (k / 16 + 8) * 2.0**-24 * bound).all()


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("w_dtype", FLOATS)
@QUICK
@given(data=st.data())
def test_floats_of_every_sort_touch_their_row_only(w_dtype, x_dtype, data):
    n, k = data.draw(st.sampled_from(OUT_FEATURES)), data.draw(st.sampled_from(IN_FEATURES))
    x, x_wide = floats(data.draw, 4, k, x_dtype)
    head, head_wide = stored(np.random.default_rng(k).random((n, k)).astype(np.float32), w_dtype)
    problem = problem_of(4, n, k, w_dtype, x_dtype)
    y = logits(problem, KERNEL.configs(problem)[0], x, head)
    finite = np.isfinite(x_wide).all(1)
    assert not np.isfinite(y[~finite]).any()
    expected, bound = reference.head_logits_float64(x_wide[finite], head_wide)
    with np.errstate(over="ignore"):
        near = np.abs(y[finite] - expected) <= (k / 16 + 8) * 2.0**-24 * bound + 1e-40
    assert (near | (bound > 3e38)).all()


@pytest.mark.parametrize("w_dtype", FLOATS)
def test_values_that_floats_hold_exactly_are_kept(w_dtype):
    """Denormals, the largest numbers and signed zeros of the head, each multiplied by one."""
    bits = {
        "float16": np.array([0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x8000], np.uint16).view(np.float16),
        "bfloat16": np.array([0x0001, 0x007F, 0x7F7F, 0xFF7F, 0x8000], np.uint16),
        "float32": np.array([0x00000001, 0x007FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000000], np.uint32).view(np.float32),
    }
    head = bits[w_dtype]
    wide = values(head, w_dtype)
    problem = problem_of(1, 5, 1, w_dtype)
    y = logits(problem, KERNEL.configs(problem)[0], np.ones((1, 1), np.float32), head.reshape(5, 1))
    np.testing.assert_array_equal(y[0], wide)


@pytest.mark.parametrize("w_dtype", [*FLOATS, "int8"])
def test_a_row_does_not_depend_on_its_batch_config_or_threads(w_dtype):
    n, k = 101, 611
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, k)).astype(np.float32)
    if w_dtype == "int8":
        head, scale = rng.integers(-127, 128, (n, k)).astype(np.int8), rng.random(n).astype(np.float32)
    else:
        head, scale = stored(rng.standard_normal((n, k)).astype(np.float32), w_dtype)[0], None
    results = {}
    for rows in (1, 2, 3, 17, 64):
        for config in configs_of(w_dtype, rows)[: 3 if rows == 64 else 2]:
            for threads in (1, 2):
                y = logits(problem_of(rows, n, k, w_dtype), config, x[:rows].copy(), head, scale, threads)
                results[rows, config.tile.outputs, config.tile.rows, threads] = y
    assert len(results) >= (10 if FIRST_ONLY else 18)
    whole = results[max(results)]
    assert len(whole) == 64
    for y in results.values():
        np.testing.assert_array_equal(y, whole[: len(y)])


def test_no_rows_leave_everything_as_it_is():
    problem = problem_of(1, 3, 5, "float32")
    x, head = np.ones((0, 5), np.float32), np.ones((3, 5), np.float32)
    assert logits(problem, KERNEL.configs(problem)[0], x, head).size == 0
