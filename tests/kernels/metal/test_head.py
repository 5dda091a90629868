"""Metal's output heads by the contract: integers to the bit, floats as near as their products let them be."""

import numpy as np
import pytest
from halves import stored
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_draws import codes, floats
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit import reference
from bitnet_jit.kernels.metal.head import logits
from bitnet_jit.problem import Problem, rows_bucket

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

SHAPES = st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([8, 17, 33]), st.sampled_from([1, 33, 130, 264]))
few_examples = settings(max_examples=12)


def run(x, head, head_scale=None, config=None, seed=0):
    """Return logits, which were poisoned before, of tensors as stored."""
    (count, features), dtypes = x.shape, [{np.uint16: "bfloat16"}.get(a.dtype.type, a.dtype.name) for a in (x, head)]
    problem = Problem(
        "head_logits", "mlx", rows_bucket(count), len(head), features, x_dtype=dtypes[0], w_dtype=dtypes[1]
    )
    assert logits.unsupported_reason(problem) is None
    bound = logits.bind(problem, config or logits.configs(problem)[0])
    arguments = {"x": x, "head": head, "head_scale": head_scale}
    return run_bound(bound, count, arguments, {"logits": ((count, len(head)), "float32")}, seed)["logits"]


@few_examples
@given(data=st.data(), shape=SHAPES, x_dtype=st.sampled_from(["float32", "bfloat16"]))
def test_heads_of_int8_are_the_contract_to_the_bit(data, shape, x_dtype):
    count, outputs, features = shape
    x, wide = floats(data.draw, count, features, x_dtype)
    head, scale = codes(data.draw, outputs, features), np.linspace(0, 1, outputs, dtype=np.float32)
    head = np.maximum(head, -127)
    wanted = reference.head_logits(wide, head, scale)
    assert np.array_equal(run(x, head, scale, logits.HeadConfig(2, 2, 2), seed=count), wanted, equal_nan=True)


def test_sums_of_the_largest_codes_are_exact():
    features = logits.MAX_EXACT_INPUTS
    x, head = np.ones((1, features), np.float32), np.full((8, features), 127, np.int8)
    head[:, 1::3] = -127
    head[0] = 127
    wanted = reference.head_logits(x, head, np.ones(8, np.float32))
    assert np.array_equal(run(x, head, np.ones(8, np.float32), logits.HeadConfig(1, 2, 1)), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@few_examples
@given(data=st.data(), shape=SHAPES)
def test_heads_of_floats_err_by_little(dtype, data, shape):
    count, outputs, features = shape
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, wide = stored(rng.standard_normal((count, features), dtype=np.float32), dtype)
    head, wide_head = stored(rng.standard_normal((outputs, features), dtype=np.float32), dtype)
    wanted, size = reference.head_logits_float64(wide, wide_head)
    y = run(x, head, None, logits.HeadConfig(2, 2, 2), seed=count)
    assert (np.abs(y - wanted) <= (features / 32 + 8) * 2.0**-24 * size).all()


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_row_has_the_same_bits_beside_any_rows_and_by_any_config(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 130), dtype=np.float32)
    head = rng.integers(-127, 128, (33, 130)).astype(np.int8) if dtype == "int8" else x[:1].astype(dtype).repeat(33, 0)
    scale = rng.random(33, dtype=np.float32) if dtype == "int8" else None
    wanted = run(x, head, scale)
    for config in (logits.HeadConfig(1, 1, 1), logits.HeadConfig(4, 4, 2), logits.HeadConfig(2, 8, 1)):
        for part in (slice(0, 5), slice(3, 4), slice(1, 4)):
            assert np.array_equal(run(x[part], head, scale, config, seed=config.outs), wanted[part])


def test_a_bad_row_stays_alone():
    x, head = np.ones((3, 33), np.float32), np.ones((8, 33), np.float16)
    x[1, 5] = np.nan
    y = run(x, head)
    assert np.isnan(y[1]).all()
    assert (y[[0, 2]] == 33).all()


def test_small_or_wide_heads_are_refused_in_words():
    small = Problem("head_logits", "mlx", 1, 1, 7, w_dtype="float16")
    wide = Problem("head_logits", "mlx", 1, 8, 2**15 + 1, w_dtype="int8")
    assert logits.unsupported_reason(small) == "takes heads of at least 8 numbers"
    assert "exactly up to K = 32768, got K = 32769" in logits.unsupported_reason(wide)
