"""The Triton kernels for codes by the contract, bit for bit: on a GPU, or in Triton's interpreter on the CPU.

`test_interpreter.py` runs the files of this folder a second time, with TRITON_INTERPRET=1.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import BACKEND, LAYOUTS, call, max_examples, needs_device, on
from triton_codes import arguments, draw, exact_problem, expected

from bitnet_jit.kernels.triton.device import target
from bitnet_jit.problem import MAX_IN_FEATURES, Gpu

ROWS = [1, 0, 2, 3, 4, 5, 9, 16, 17, 33, 130]
OUT_FEATURES = [1, 3, 17, 64, 131]
IN_FEATURES = [1, 3, 33, 48, 255, 256, 257, 700, 1040, 2560]
OPS = ("bit_linear", "quantized_linear", "ternary_matmul")


def pairs():
    """Yield every kernel with each layout that it reads."""
    for kernel in BACKEND.kernels():
        for layout in LAYOUTS:
            problems = (exact_problem(kernel.op, (rows, 8, 300), layout) for rows in (1, 4, 16, 128))
            if kernel.op in OPS and any(kernel.unsupported_reason(problem) is None for problem in problems):
                yield pytest.param(kernel, layout, id=f"{kernel.name}-{layout}")


EXACT = pytest.mark.parametrize(("kernel", "layout"), list(pairs()))


def taken(kernel, layout, rows):
    """Return the number of rows, or another that the kernel takes."""
    return next(
        m for m in (rows, 4, 1) if kernel.unsupported_reason(exact_problem(kernel.op, (m, 8, 300), layout)) is None
    )


def scales_of(scale, shape):
    """Draw x_scale (M,), w_scale () or (N,)."""
    rng = np.random.default_rng(shape[1])
    w_shape = (shape[1],) if scale == "row" else ()
    w_scale = np.asarray(rng.random(w_shape, dtype=np.float32) + np.float32(0.01), np.float32)
    return rng.random(shape[0], dtype=np.float32), w_scale


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@needs_device
@EXACT
@max_examples
@given(
    data=st.data(),
    features=st.tuples(st.sampled_from(OUT_FEATURES), st.sampled_from(IN_FEATURES)),
    scale=st.sampled_from(["tensor", "row"]),
    has_bias=st.booleans(),
    extreme=st.sampled_from([None, 0.0, 1e-41, np.nan, np.inf, -3e38]),
    pick=st.integers(0, 999),
)
def test_every_kernel_is_the_contract(kernel, layout, data, features, scale, has_bias, extreme, pick):
    fitting = [m for m in ROWS if kernel.unsupported_reason(exact_problem(kernel.op, (m, *features), layout)) is None]
    shape = (data.draw(st.sampled_from(fitting), "rows"), *features)
    x, x_q, w_q = draw(shape, extreme)
    x_scale, w_scale = scales_of(scale, shape)
    bias = np.linspace(-1, 1, shape[1], dtype=np.float32) if has_bias else None
    problem = exact_problem(kernel.op, shape, layout, scale, bias)
    configs = kernel.all_configs(problem)
    operands = (x, x_q, x_scale, w_q, w_scale, bias)
    y = call(kernel, problem, configs[pick % len(configs)], *arguments(kernel.op, layout, *operands))
    assert np.array_equal(y, expected(kernel.op, *operands), equal_nan=True)


@needs_device
@EXACT
def test_rows_of_a_hundred_thousand_inputs(kernel, layout):
    shape = (taken(kernel, layout, 2), 3, 100_003)
    x, x_q, w_q = draw(shape, None)
    x_scale, w_scale = np.ones(shape[0], np.float32), np.float32(0.5)
    problem = exact_problem(kernel.op, shape, layout)
    if refusal := kernel.unsupported_reason(problem):
        assert "takes at most" in refusal
        return
    operands = (x, x_q, x_scale, w_q, w_scale, None)
    y = call(kernel, problem, kernel.configs(problem)[0], *arguments(kernel.op, layout, *operands))
    assert np.array_equal(y, expected(kernel.op, *operands))


@needs_device
@EXACT
@pytest.mark.parametrize("in_features", [256, 260])
def test_operands_may_have_gaps_and_begin_anywhere(kernel, layout, in_features):
    shape = (taken(kernel, layout, 3), 17, in_features)
    x, x_q, w_q = draw(shape, None)
    x_scale, w_scale, bias = (np.linspace(0.1, 2, count, dtype=np.float32) for count in (shape[0], 17, 17))
    problem = exact_problem(kernel.op, shape, layout, "row", bias)
    operands = (x, x_q, x_scale, w_q, w_scale, bias)
    wanted, config = expected(kernel.op, *operands), kernel.configs(problem)[0]
    tensors = [on(a) for a in arguments(kernel.op, layout, *operands)]
    spread = [a.repeat_interleave(2, -1)[..., ::2] for a in tensors]
    shifted = [torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape) for a in tensors]
    assert not any(a.is_contiguous() for a in spread)
    assert any(a.data_ptr() % 16 for a in shifted)
    assert np.array_equal(call(kernel, problem, config, *spread), wanted)
    assert np.array_equal(call(kernel, problem, config, *shifted), wanted)


@needs_device
@EXACT
@pytest.mark.parametrize("leading", [(), (1,), (3, 1), (0, 2)])
def test_any_leading_dimensions(kernel, layout, leading):
    rows = taken(kernel, layout, math.prod(leading))
    leading = leading if rows == math.prod(leading) else {4: (2, 2), 1: (1, 1)}[rows]
    x, x_q, w_q = draw((rows, 5, 33), None)
    x_scale, w_scale = scales_of("row", (rows, 5, 33))
    operands = (x, x_q, x_scale, w_q, w_scale, None)
    wanted = expected(kernel.op, *operands).reshape(*leading, 5)
    shaped = (x.reshape(*leading, 33), x_q.reshape(*leading, 33), x_scale.reshape(leading), w_q, w_scale, None)
    problem = exact_problem(kernel.op, (rows, 5, 33), layout, "row")
    y = call(kernel, problem, kernel.configs(problem)[0], *arguments(kernel.op, layout, *shaped))
    assert np.array_equal(y, wanted)


@EXACT
def test_refusals_are_words(kernel, layout):
    rows = taken(kernel, layout, 4)
    problem = exact_problem(kernel.op, (rows, 8, 300), layout)
    assert kernel.unsupported_reason(problem) is None
    for change, words in (
        ({"layout": "t5"}, "not 't5'"),
        ({"activation": "a16"}, "serves activation='a8'"),
        ({"gpu": Gpu("GeForce GTX 1080", "6.1", 20, 49152)}, "needs compute capability 8.0, GeForce GTX 1080 has 6.1"),
    ):
        assert words in (kernel.unsupported_reason(replace(problem, **change)) or "")
    longest = kernel.unsupported_reason(exact_problem(kernel.op, (rows, 8, MAX_IN_FEATURES), layout))
    assert (longest is None) == (kernel.op == "bit_linear" and "fused" not in kernel.name)


def test_an_old_triton_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(target.triton, "__version__", "3.2.0+rocm")
    assert target.unsupported_reason.__wrapped__(None) == "needs Triton 3.4 or newer, found 3.2"
