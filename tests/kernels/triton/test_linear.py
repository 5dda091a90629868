"""The Triton kernels by the contract, bit for bit: on a GPU, or in Triton's interpreter on the CPU.

Here `test_interpreter.py` runs this file a second time, with TRITON_INTERPRET=1.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the package triton is not installed")

from bitnet_jit import reference
from bitnet_jit.kernels.triton import BACKEND
from bitnet_jit.kernels.triton.target import interpreted
from bitnet_jit.problem import MAX_IN_FEATURES, Problem, rows_bucket

DEVICE = "cpu" if interpreted() else "cuda"
LAYOUT = BACKEND.layouts[0]
EVERY_KERNEL = pytest.mark.parametrize("kernel", BACKEND.kernels, ids=lambda kernel: kernel.name)
NEEDS_DEVICE = pytest.mark.skipif(
    not interpreted() and not torch.cuda.is_available(), reason="there is no GPU, and TRITON_INTERPRET is not set"
)
MANY = settings(max_examples=40)
ROWS = [0, 1, 2, 3, 4, 5, 17, 33, 130]
OUT_FEATURES = [1, 3, 17, 64, 131]
IN_FEATURES = [1, 3, 33, 255, 256, 257, 700, 2560]
POISON = {torch.int8: 99, torch.int32: 77777777, torch.float32: torch.nan}
SCALES = {"tensor": lambda out_features: (), "row": lambda out_features: (out_features,)}


@pytest.fixture(autouse=True, scope="module")
def poison():
    """What `torch.empty` gives is full of wrong numbers."""
    empty = torch.empty

    def poisoned(*shape, dtype, **options):
        return empty(*shape, dtype=dtype, **options).fill_(POISON[dtype])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        yield


def fitting_rows(kernel):
    """Rows that the kernel takes."""
    fits = [m for m in ROWS if kernel.why_not(problem_of(kernel.op, (m, 8, 300), "tensor", None)) is None]
    return st.sampled_from(fits)


def problem_of(op, shape, scale, bias):
    rows, out_features, in_features = shape
    return Problem(
        op=op,
        device_type=DEVICE,
        rows=rows_bucket(rows),
        out_features=out_features,
        in_features=in_features,
        layout=LAYOUT.name,
        activation="a8",
        x_dtype="float32" if op == "bit_linear" else "int8",
        y_dtype="int32" if op == "ternary_matmul" else "float32",
        scale="" if op == "ternary_matmul" else scale,
        bias="float32" if bias is not None and op != "ternary_matmul" else "",
    )


def draw(shape, extreme):
    """x (M, K), x_q of the whole range, w_q (N, K)."""
    rows, out_features, in_features = shape
    rng = np.random.default_rng(rows * 10007 + out_features * 101 + in_features)
    x = rng.standard_normal((rows, in_features), dtype=np.float32)
    x_q = rng.integers(-128, 128, (rows, in_features), dtype=np.int8)
    w_q = rng.integers(-1, 2, (out_features, in_features), dtype=np.int8)
    if extreme is not None and rows:
        x[rows // 2] = extreme
        x_q[rows // 2] = -128
        w_q[:] = -1
    return x, x_q, w_q


def on_device(*arrays):
    return [torch.from_numpy(np.array(array)).to(DEVICE) for array in arrays]


def arguments(op, x, x_q, x_scale, packed, w_scale, bias):
    """The tensors that an op takes."""
    bias_on_device = None if bias is None else on_device(bias)[0]
    if op == "bit_linear":
        return [*on_device(x, packed, w_scale), bias_on_device]
    if op == "quantized_linear":
        return [*on_device(x_q, x_scale, packed, w_scale), bias_on_device]
    return on_device(x_q, packed)


def expected(op, x, x_q, x_scale, w_q, w_scale, bias):
    if op == "bit_linear":
        return reference.bit_linear(x, w_q, w_scale, bias)
    acc = reference.ternary_matmul(x_q, w_q)
    if op == "ternary_matmul":
        return acc
    y = acc.astype(np.float32) * (x_scale[:, None] * w_scale)
    return y if bias is None else y + bias


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@NEEDS_DEVICE
@EVERY_KERNEL
@MANY
@given(
    data=st.data(),
    features=st.tuples(st.sampled_from(OUT_FEATURES), st.sampled_from(IN_FEATURES)),
    scale=st.sampled_from(sorted(SCALES)),
    has_bias=st.booleans(),
    extreme=st.sampled_from([None, 0.0, 1e-41, np.nan, np.inf, -3e38]),
    pick=st.integers(0, 2),
)
def test_every_kernel_is_the_contract(kernel, data, features, scale, has_bias, extreme, pick):
    shape = (data.draw(fitting_rows(kernel), "rows"), *features)
    x, x_q, w_q = draw(shape, extreme)
    rng = np.random.default_rng(shape[1])
    w_scale = rng.random(SCALES[scale](shape[1]), dtype=np.float32) + np.float32(0.01)
    x_scale = rng.random(shape[0], dtype=np.float32)
    bias = rng.standard_normal(shape[1], dtype=np.float32) if has_bias else None
    problem = problem_of(kernel.op, shape, scale, bias)
    assert kernel.why_not(problem) is None
    configs = kernel.configs(problem)
    packed = LAYOUT.from_canonical(LAYOUT.format.pack(w_q), *shape[1:])
    run = kernel.bind(problem, configs[pick % len(configs)])
    y = run(*arguments(kernel.op, x, x_q, x_scale, packed, np.asarray(w_scale), bias))
    wanted = expected(kernel.op, x, x_q, x_scale, w_q, np.asarray(w_scale), bias)
    assert np.array_equal(y.cpu().numpy(), wanted, equal_nan=True)


@NEEDS_DEVICE
@EVERY_KERNEL
def test_rows_of_a_hundred_thousand_inputs(kernel):
    shape = (2, 3, 100_003)
    x, x_q, w_q = draw(shape, None)
    x_scale, w_scale = np.ones(2, np.float32), np.float32(0.5)
    packed = LAYOUT.from_canonical(LAYOUT.format.pack(w_q), *shape[1:])
    problem = problem_of(kernel.op, shape, "tensor", None)
    run = kernel.bind(problem, kernel.configs(problem)[0])
    y = run(*arguments(kernel.op, x, x_q, x_scale, packed, w_scale, None))
    assert np.array_equal(y.cpu().numpy(), expected(kernel.op, x, x_q, x_scale, w_q, w_scale, None))


@NEEDS_DEVICE
@EVERY_KERNEL
def test_operands_may_have_gaps(kernel):
    shape = (3, 17, 256)
    x, x_q, w_q = draw(shape, None)
    x_scale, w_scale, bias = (np.linspace(0.1, 2, count, dtype=np.float32) for count in (3, 17, 17))
    packed = LAYOUT.from_canonical(LAYOUT.format.pack(w_q), *shape[1:])
    problem = problem_of(kernel.op, shape, "row", bias)
    run = kernel.bind(problem, kernel.configs(problem)[0])
    spread = [
        a.repeat_interleave(2, -1)[..., ::2] for a in arguments(kernel.op, x, x_q, x_scale, packed, w_scale, bias)
    ]
    assert not any(a.is_contiguous() for a in spread)
    assert np.array_equal(run(*spread).cpu().numpy(), expected(kernel.op, x, x_q, x_scale, w_q, w_scale, bias))


@EVERY_KERNEL
def test_refusals_are_words(kernel):
    shape = (2, 8, 300)
    problem = problem_of(kernel.op, shape, "tensor", None)
    assert kernel.why_not(problem) is None
    for change, words in (
        ({"layout": "i2"}, "reads the layout i2/planes, not 'i2'"),
        ({"activation": "a16"}, "serves activation='a8'"),
        ({"scale": "group", "group_size": 64}, "not group scales"),
    ):
        assert words in kernel.why_not(replace(problem, **change))
    longest = problem_of(kernel.op, (2, 8, MAX_IN_FEATURES), "tensor", None)
    assert (kernel.why_not(longest) is None) == (kernel.op == "bit_linear")


def test_the_backend_says_which_device_it_serves():
    assert BACKEND.why_not(DEVICE) is None
    assert "not 'mps'" in BACKEND.why_not("mps")


@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 600)))
def test_the_layout_is_an_invertible_reordering(shape):
    w_q = draw((0, *shape), None)[2]
    packed = LAYOUT.format.pack(w_q)
    laid = LAYOUT.from_canonical(packed, *shape)
    LAYOUT.check(laid, *shape)
    assert np.array_equal(LAYOUT.to_canonical(laid, *shape), packed)
    assert np.array_equal(LAYOUT.from_canonical(torch.from_numpy(packed), *shape).numpy(), laid)
