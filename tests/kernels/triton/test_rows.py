"""The row-wise Triton kernels by the contract: quantization bit for bit, norms as far as sums of floats agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import ON_GPU, call, every, max_examples, needs_device, problem_of

from bitnet_jit import reference
from bitnet_jit.kernels.triton.rowwise import rows

QUANTIZED = ("rms_norm", "add_rms_norm", "relu2_mul_norm", "silu_mul_norm")  # and then
FLOATS = (*QUANTIZED, "sigmoid_mul_norm", "gelu_mul_norm")  # what these give are not codes
ADDS = ("add_rms_norm", rows.ADD)
OPS = ("quantize_activation", *FLOATS, *(f"{op}_quantize" for op in QUANTIZED))
GATES = {
    f"{kind}_mul_norm{end}": product
    for kind, product in (("relu2", reference.relu2_mul), ("silu", reference.silu_mul))
    for end in ("", "_quantize")
} | {"sigmoid_mul_norm": reference.sigmoid_mul, "gelu_mul_norm": reference.gelu_mul}
EPS = 1e-5


def row_problem(op, rows, features, x_dtype="float32", weight_dtype="float32"):
    codes = op not in FLOATS and op not in ADDS
    bias = "" if op == "quantize_activation" else weight_dtype
    return problem_of(op, (rows, features, features), x_dtype=x_dtype, y_dtype="int8" if codes else x_dtype, bias=bias)


EVERY_OP = every(*(row_problem(op, 4, 300) for op in OPS))
SHAPES = st.tuples(
    st.sampled_from([1, 0, 2, 3, 17, 33]), st.sampled_from([1, 3, 17, 33, 255, 256, 257, 2560, 6912, 20011])
)
EXTREMES = st.sampled_from([None, 0.0, 1e-41, np.nan, np.inf, -3e38])


def draw(shape, extreme):
    """Draw x (M, K), up (M, K), weight (K,); one row of x, but for its first element, is extreme."""
    rng = np.random.default_rng(shape[0] * 1009 + shape[1])
    x, up = rng.standard_normal((2, *shape), dtype=np.float32)
    if extreme is not None and shape[0]:
        x[shape[0] // 2, 1:] = extreme
    return x, up, rng.standard_normal(shape[1], dtype=np.float32)


def operands(op, x, up, weight):
    if op == "quantize_activation":
        return (x,)
    return (x, up, weight, EPS) if op in GATES or op in ADDS else (x, weight, EPS)


def normalized(op, x, up, weight):
    """Return the values that a fused op quantizes, in float64 of float32 inputs."""
    with np.errstate(invalid="ignore", over="ignore"):
        values = GATES[op](x, up) if op in GATES else x + up if op in ADDS else x
    return reference.rms_norm_float64(values, weight, EPS)


def parts(result):
    """Return the outputs of an op, of which there may be one."""
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@needs_device
@EVERY_OP
@max_examples
@given(shape=SHAPES, extreme=EXTREMES, pick=st.integers(0, 999))
def test_every_kernel_is_the_contract(kernel, shape, extreme, pick):
    op, problem = kernel.op, row_problem(kernel.op, *shape)
    x, up, weight = draw(shape, extreme)
    configs = kernel.all_configs(problem)
    result = call(kernel, problem, configs[pick % len(configs)], *operands(op, x, up, weight))
    if op == "quantize_activation":
        for part, wanted in zip(result, reference.quantize_activation(x), strict=True):
            assert np.array_equal(part, wanted, equal_nan=True)
    elif op in FLOATS:
        *total, y = parts(result)
        *wanted_total, wanted = parts(getattr(reference, op)(*operands(op, x, up, weight)))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(total, wanted_total, strict=True))
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
    else:
        check_codes(result, normalized(op, x, up, weight), getattr(reference, op)(*operands(op, x, up, weight)))


def check_codes(result, exact, wanted):
    """Check codes against the exact values; where float32 overflows on the way there, against the reference."""
    if len(result) == 3:
        assert np.array_equal(result[0], wanted[0], equal_nan=True)
        result, wanted = result[1:], wanted[1:]
    np.testing.assert_allclose(result[1], wanted[1], rtol=1e-5)
    overflowed = ~np.isfinite(wanted[1]) | (np.abs(exact).max(1, initial=0) > 2e5 * wanted[1])
    assert reference.codes_agree(result[0][~overflowed], exact[~overflowed]).all()
    assert np.array_equal(result[0][overflowed], wanted[0][overflowed])


@needs_device
@every(row_problem("relu2_mul_norm", 4, 300), row_problem("relu2_mul_norm_quantize", 4, 300))
@pytest.mark.parametrize("features", [48, 50])
def test_gate_and_up_may_be_parts_of_one_tensor(kernel, features):
    both = torch.randn(2, 3, 2 * features + 16)
    gate, _, up = both.split([features, 16, features], -1)
    weight = np.linspace(0.5, 1.5, features, dtype=np.float32)
    problem = row_problem(kernel.op, 6, features)
    config = kernel.configs(problem)[0]
    wanted = parts(getattr(reference, kernel.op)(*(a.reshape(6, features).numpy() for a in (gate, up)), weight, EPS))
    for a, b in ((gate, up), (gate, up.contiguous()), (gate.transpose(0, 1).contiguous().transpose(0, 1), up)):
        result = parts(call(kernel, problem, config, a, b, weight, EPS))
        assert len(result) == 1 or np.array_equal(result[0].reshape(6, features), wanted[0])
        np.testing.assert_allclose(result[-1].reshape(wanted[-1].shape), wanted[-1], rtol=1e-6)


@needs_device
@EVERY_OP
@pytest.mark.parametrize("leading", [(), (1,), (3, 1), (0, 2)])
def test_any_leading_dimensions(kernel, leading):
    rows = int(np.prod(leading))
    problem = row_problem(kernel.op, rows, 33)
    config, (x, up, weight) = kernel.configs(problem)[0], draw((rows, 33), None)
    wanted = call(kernel, problem, config, *operands(kernel.op, x, up, weight))
    shaped = operands(kernel.op, x.reshape(*leading, 33), up.reshape(*leading, 33), weight)
    result = call(kernel, problem, config, *shaped)
    wanted, result = parts(wanted), parts(result)
    assert [a.shape for a in result] == ([(*leading, 33)] * (kernel.op in ADDS) + [(*leading, 33), leading])[
        : len(result)
    ]
    assert all(np.array_equal(a.reshape(b.shape), b) for a, b in zip(result, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@needs_device
@every(*(row_problem(op, 4, 300) for op in (*FLOATS[3:], "silu_mul_norm_quantize")))
def test_gates_without_a_norm(kernel):
    gate = np.random.default_rng(0).standard_normal((7, 700), dtype=np.float32) * 10
    gate[1, 3], gate[2, 4], gate[3, 5], gate[4] = np.nan, np.inf, -np.inf, -200
    up = np.random.default_rng(1).standard_normal((7, 700), dtype=np.float32)
    problem = replace(row_problem(kernel.op, 7, 700), bias="")
    result = call(kernel, problem, kernel.configs(problem)[0], gate, up, None, 0.0)
    if kernel.op in FLOATS:
        tiny = 1e-12 if kernel.op == "gelu_mul_norm" else 1e-35  # its exponent is a cube, rounded
        np.testing.assert_allclose(result, GATES[kernel.op](gate, up), rtol=1e-5, atol=tiny)
        return
    x_q, x_scale = result
    wanted = reference.silu_mul_norm_quantize(gate, up, None, 0.0)
    np.testing.assert_allclose(x_scale, wanted[1], rtol=1e-5)
    finite = np.isfinite(wanted[1])
    assert reference.codes_agree(x_q[finite], reference.silu_mul(gate, up)[finite].astype(np.float64)).all()
    assert not x_q[~finite].any()


@needs_device
@EVERY_OP
def test_rows_of_a_hundred_thousand_features(kernel):
    op, shape = kernel.op, (2, 100_003)
    x, up, weight = draw(shape, None)
    problem = row_problem(op, *shape)
    result = call(kernel, problem, kernel.configs(problem)[0], *operands(op, x, up, weight))
    if op in FLOATS:
        np.testing.assert_allclose(parts(result)[-1], normalized(op, x, up, weight), rtol=1e-4, atol=1e-6)
    elif op == "quantize_activation":
        assert np.array_equal(result[0], reference.quantize_activation(x)[0])
    else:
        assert reference.codes_agree(result[-2], normalized(op, x, up, weight)).all()


@pytest.mark.skipif(not ON_GPU, reason="the interpreter truncates floats to bfloat16; this needs a GPU")
@EVERY_OP
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 2560), (7, 6912), (130, 700)])
def test_halves(kernel, dtype, shape):
    op, torch_dtype = kernel.op, getattr(torch, dtype)
    x, up, weight = (torch.from_numpy(a).to(torch_dtype) for a in draw(shape, None))
    problem = row_problem(op, *shape, dtype, dtype)
    result = call(kernel, problem, kernel.configs(problem)[0], *operands(op, x, up, weight))
    wide = [a.float().numpy() for a in (x, up, weight)]
    if op in ADDS:
        assert np.array_equal(result[0], (x + up).float().numpy())
        result, op, wide[0] = result[1:], op.removeprefix("add_"), result[0]
    if op == "quantize_activation":
        for part, wanted in zip(result, reference.quantize_activation(wide[0]), strict=True):
            assert np.array_equal(part, wanted)
    elif op in FLOATS:
        np.testing.assert_allclose(parts(result)[-1], normalized(op, *wide), rtol=1e-2, atol=2.0**-24)
    else:
        check_codes(result, normalized(op, *wide), getattr(reference, op)(*operands(op, *wide)))


def test_every_op_with_two_inputs_has_a_gate_that_the_kernel_knows():
    assert {op for op, operands in rows.OPERANDS.items() if "gate" in operands} == rows.GATES.keys()
    assert set(rows.GATES.values()) <= {"relu2", "silu", "sigmoid", "gelu"}


@pytest.mark.parametrize("op", [op for op in OPS if op != "quantize_activation"])
def test_sums_have_one_config_whatever_the_number_of_rows(op):
    kernel = next(kernel for kernel in rows.KERNELS if kernel.op == op)
    for features in (1, 300, 2560, 6912, 100_003):
        configs = [kernel.all_configs(row_problem(op, m, features)) for m in (1, 2, 16, 64, 65, 512, 4096)]
        assert {len(some) for some in configs} == {1}
        assert len({config.block for (config,) in configs}) == 1  # warps may differ: they change no order of sums


@pytest.mark.skipif(not ON_GPU, reason="the interpreter adds up as NumPy does")
@EVERY_OP
@pytest.mark.parametrize("features", [300, 2560, 6912, 20011])
def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it(kernel, features):
    x, up, weight = draw((600, features), None)
    arrays = operands(kernel.op, x, up, weight)
    problem = row_problem(kernel.op, 600, features)
    wanted = call(kernel, problem, kernel.configs(problem)[0], *arrays)
    for m in (1, 2, 17, 64):
        problem = row_problem(kernel.op, m, features)
        part = [a[:m] if isinstance(a, np.ndarray) and a.ndim == 2 else a for a in arrays]
        for config in kernel.all_configs(problem):
            result = call(kernel, problem, config, *part)
            pairs = zip(result, wanted, strict=True) if isinstance(result, tuple) else [(result, wanted)]
            assert all(np.array_equal(a, b[:m]) for a, b in pairs), (m, config)
