"""Row-wise ops that give floats: the values that the quantizing ones quantize, whatever the rows and threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.devices.threads import set_num_threads
from bitnet_jit.ops.norm import (
    add_rms_norm,
    add_rms_norm_quantize,
    gelu_mul_norm,
    quantize_activation,
    relu2_mul_norm,
    relu2_mul_norm_quantize,
    rms_norm,
    sigmoid_mul_norm,
    silu_mul_norm,
    silu_mul_norm_quantize,
)
from bitnet_jit.ops.program import record

EPS = 1e-5
QUANTIZING = {
    add_rms_norm: add_rms_norm_quantize,
    relu2_mul_norm: relu2_mul_norm_quantize,
    silu_mul_norm: silu_mul_norm_quantize,
}
GATES = {"relu2": relu2_mul_norm, "silu": silu_mul_norm, "sigmoid": sigmoid_mul_norm, "gelu": gelu_mul_norm}
EVERY_OP = pytest.mark.parametrize("op", QUANTIZING, ids=["add", "relu2", "silu"])
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
SHAPES = st.tuples(st.integers(0, 5), st.sampled_from([1, 3, 17, 33, 257, 1000]))
EXTREMES = st.sampled_from([None, 0.0, 1e-41, torch.nan, torch.inf, -torch.inf, -3e4])
SEEDS = st.integers(0, 99)


@pytest.fixture
def threads():
    """Sets the number of threads, and gives torch's back."""
    yield set_num_threads
    set_num_threads(None)


def draw(shape, extreme=None, seed=0, dtype=torch.float32):
    """Draw x and other (rows, features), weight (features,); one row of x, but for its first element, is extreme."""
    generator = torch.Generator().manual_seed(seed)
    x, other = torch.randn(2, *shape, generator=generator).to(dtype)
    if extreme is not None and shape[0]:
        x[shape[0] // 2, 1:] = extreme
    return x, other, torch.randn(shape[1], generator=generator)


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def equal(results, wanted):
    """Return whether tensors are the same bits, any NaN for any other."""
    pairs = zip(outputs(results), outputs(wanted), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a.nan_to_num(7e4), b.nan_to_num(7e4)) for a, b in pairs)


@EVERY_OP
@given(shape=SHAPES, extreme=EXTREMES, seed=SEEDS)
def test_codes_are_those_of_the_floats(op, shape, extreme, seed):
    x, other, weight = draw(shape, extreme, seed)
    *total, y = outputs(op(x, other, weight, EPS))
    assert equal((*total, *quantize_activation(y)), QUANTIZING[op](x, other, weight, EPS))


@given(shape=SHAPES, extreme=EXTREMES, seed=SEEDS)
def test_silu_without_a_norm(shape, extreme, seed):
    gate, up, _ = draw(shape, extreme, seed)
    h = silu_mul_norm(gate, up, None, 0.0)
    assert equal(quantize_activation(h), silu_mul_norm_quantize(gate, up, None, 0.0))
    torch.testing.assert_close(h, torch.nn.functional.silu(gate) * up, equal_nan=True)


@given(shape=SHAPES, extreme=EXTREMES, seed=SEEDS, large=st.sampled_from([1.0, 10.0, 1e4]))
def test_gelu_is_that_of_torch(shape, extreme, seed, large):
    gate, up, weight = draw(shape, extreme, seed)
    h = gelu_mul_norm(gate * large, up, None, 0.0)
    expected = torch.nn.functional.gelu(gate.double() * large, approximate="tanh") * up.double()
    torch.testing.assert_close(h, expected.float(), rtol=1e-5, atol=1e-6, equal_nan=True)
    assert equal(gelu_mul_norm(gate * large, up, weight, EPS), rms_norm(h, weight, EPS))


@HALVES
@given(shape=SHAPES, extreme=EXTREMES, seed=SEEDS)
def test_a_sum_is_rounded_before_its_norm(dtype, shape, extreme, seed):
    x, delta, weight = draw(shape, extreme, seed, dtype)
    assert equal(add_rms_norm(x, delta, weight, EPS), (x + delta, rms_norm(x + delta, weight, EPS)))


@HALVES
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("op", GATES)
@given(shape=SHAPES, extreme=EXTREMES, seed=SEEDS)
def test_a_product_is_rounded_once(op, with_norm, dtype, shape, extreme, seed):
    gate, up, weight = draw(shape, extreme, seed, dtype)
    weight, op = weight if with_norm or op == "relu2" else None, GATES[op]
    assert equal(op(gate, up, weight, EPS), op(gate.float(), up.float(), weight, EPS).to(dtype))


@EVERY_OP
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_does_not_depend_on_the_rows_beside_it_or_on_threads(op, dtype, threads):
    x, other, weight = draw((97, 1003), dtype=dtype)
    threads(1)
    alone = [outputs(op(x[row : row + 1], other[row : row + 1], weight, EPS)) for row in range(97)]
    wanted = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    for count in (1, 2, 5):
        threads(count)
        for rows in (2, 17, 97):
            assert equal(op(x[:rows], other[:rows], weight, EPS), tuple(part[:rows] for part in wanted))


@EVERY_OP
def test_a_recorded_op_is_one_step_that_runs_on_new_values(op):
    both, weight = torch.zeros(3, 66), torch.rand(33)
    x, other = (part.contiguous() for part in both.chunk(2, -1)) if op is add_rms_norm else both.chunk(2, -1)
    run, results = record(lambda: op(x, other, weight, EPS))
    assert len(run.recorder.steps) == 1
    for part in (x, other):
        part.normal_()
    for result in outputs(results):
        result.fill_(torch.nan)
    run()
    assert equal(results, op(x.clone(), other.clone(), weight, EPS))
