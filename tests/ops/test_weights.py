"""Weights to codes and back by every kernel that this machine's CPU has, with the reference as the oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit.ops  # noqa: F401
from bitnet_jit import reference
from bitnet_jit.devices.threads import set_num_threads
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

CPU = torch.device("cpu")
ops = torch.ops.bitnet_jit
PACKED = torch.zeros(3, 3, dtype=torch.uint8)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = st.tuples(
    st.sampled_from([1, 3, 17, 33, 63, 64, 65, 200]), st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 127, 300])
)
EXTREMES = st.sampled_from([None, 0.0, 1e-41, 127.0, -128.0, 6e4])


def kernels_of(op):
    """Those that run on a CPU, one parameter each."""
    result = [kernel for kernel in registry.kernels(op) if registry.unsupported_reason(kernel.backend, "cpu") is None]
    return pytest.mark.parametrize("kernel", result, ids=lambda kernel: kernel.name)


def draw(shape, extreme, dtype):
    """w (N, K); but for a row, all of it is extreme."""
    w = torch.from_numpy(np.random.default_rng(shape[0] * 1009 + shape[1]).standard_normal(shape, dtype=np.float32))
    if extreme is not None:
        w[1:] = extreme
    return w.to(DTYPES[dtype])


def problem_of(op, shape, layout, **fields):
    return Problem(op, "cpu", 1, *shape, layout=layout, **fields)


def call_of(kernel, problem, config, leading=()):
    """Return the call of a kernel on the CPU."""
    operands = OPS[problem.op].spec.operands_of(problem, leading)
    return bind_call(kernel, kernel.bind(problem, config), operands, CPU)


def canonical(w_packed, layout, shape):
    """Codes (N, K) int8 of a weight in a layout."""
    return layout.format.unpack(layout.to_canonical(w_packed, *shape), shape[1])


@kernels_of("quantize_weight")
@given(shape=SIZES, dtype=st.sampled_from(sorted(DTYPES)), extreme=EXTREMES, pick=st.integers(0, 99))
def test_every_kernel_quantizes_by_the_contract(kernel, shape, dtype, extreme, pick):
    layout, w = registry.preferred_layout("i2", "cpu"), draw(shape, extreme, dtype)
    problem = problem_of("quantize_weight", shape, layout.name, x_dtype=dtype, y_dtype="uint8", scale="tensor")
    configs = kernel.all_configs(problem)
    call = call_of(kernel, problem, configs[pick % len(configs)])
    for a in (w, torch.stack([w, w], -1)[..., 0]):  # the second is not contiguous
        w_packed, w_scale = call(a)
        w_q, wanted = reference.quantize_weight(w.float().numpy())
        assert w_scale.item() == wanted
        assert np.array_equal(canonical(w_packed, layout, shape).numpy(), w_q)
        # what stands for no weight is as from_canonical writes it
        assert torch.equal(w_packed, layout.from_canonical(layout.format.pack(torch.from_numpy(w_q)), *shape))


@kernels_of("dequantize_weight")
@given(
    shape=SIZES,
    dtype=st.sampled_from(sorted(DTYPES)),
    scale=st.sampled_from(["tensor", "row"]),
    extreme=st.sampled_from([None, 0.0, np.nan, np.inf]),
    pick=st.integers(0, 99),
)
def test_every_kernel_gives_back_the_product_of_codes_and_scale(kernel, shape, dtype, scale, extreme, pick):
    layout, rng = registry.preferred_layout("i2", "cpu"), np.random.default_rng(shape[0] * 31 + shape[1])
    w_q = torch.from_numpy(rng.integers(-1, 2, shape, dtype=np.int8))
    w_scale = torch.from_numpy(np.asarray(rng.random(shape[:1] if scale == "row" else (), dtype=np.float32)))
    if extreme is not None:
        w_scale.view(-1)[0] = extreme
    problem = problem_of("dequantize_weight", shape, layout.name, x_dtype="uint8", y_dtype=dtype, scale=scale)
    configs, w_packed = kernel.all_configs(problem), layout.from_canonical(layout.format.pack(w_q), *shape)
    call = call_of(kernel, problem, configs[pick % len(configs)])
    wanted = (w_q * (w_scale[:, None] if scale == "row" else w_scale)).to(DTYPES[dtype])
    assert torch.equal(call(w_packed, w_scale).nan_to_num(7.0), wanted.nan_to_num(7.0))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_scale_is_the_same_for_any_number_of_threads(threads):
    layout = registry.preferred_layout("i2", "cpu").name
    w = torch.randn(1000, 777)
    wanted = ops.quantize_weight(w, layout)
    try:
        set_num_threads(threads)
        result = ops.quantize_weight(w, layout)
    finally:
        set_num_threads(None)  # as torch has it
    assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_shows_in_its_scale(broken):
    w = torch.randn(70, 33)
    w[69, 32] = broken
    _, w_scale = ops.quantize_weight(w, registry.preferred_layout("i2", "cpu").name)
    assert not w_scale.isfinite()


def test_half_of_the_scale_is_rounded_to_even_and_the_next_number_is_not():
    above = 1 + 2.0**-23
    w = torch.tensor([[1.0, -1.0, above, -above, above, -above, 8 - 2.0**-21]])  # their magnitudes add up to 14
    layout = registry.preferred_layout("i2", "cpu")
    w_packed, w_scale = ops.quantize_weight(w, layout.name)
    assert w_scale.item() == 2.0
    assert canonical(w_packed, layout, w.shape).tolist() == [[0, 0, 1, -1, 1, -1, 1]]
    assert reference.quantize_weight(w.numpy())[0].tolist() == [[0, 0, 1, -1, 1, -1, 1]]


@kernels_of("dequantize_activation")
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("leading", [(), (1,), (3, 2), (0, 2)])
def test_activations_are_given_back(kernel, dtype, leading):
    x_q = torch.randint(-128, 128, (*leading, 33), dtype=torch.int8)
    x_scale = torch.rand(leading)
    problem = replace(problem_of("dequantize_activation", (33, 33), ""), x_dtype="int8", y_dtype=dtype)
    call = call_of(kernel, problem, kernel.configs(problem)[0], x_q.shape[:-1])
    wanted = (x_q * x_scale[..., None]).to(DTYPES[dtype])
    assert torch.equal(call(x_q, x_scale), wanted)
    assert torch.equal(ops.dequantize_activation(x_q, x_scale, DTYPES[dtype]), wanted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ops.quantize_weight(torch.ones(3), "i2"), r"weight: expected .* \(N, K\) .* got torch.float32 \(3,\)"),
        (lambda: ops.quantize_weight(torch.ones(3, 3, dtype=torch.float64), "i2"), "weight: .* got torch.float64"),
        (lambda: ops.quantize_weight(torch.ones(3, 3), "i3"), "layout: expected one of .* got 'i3'"),
        (
            lambda: ops.dequantize_weight(PACKED[:, :1], torch.tensor(1.0), 9, 3, "i2", 0, torch.half),
            r"w_packed: expected uint8 \(3, 3\) for 3 x 9",
        ),
        (
            lambda: ops.dequantize_weight(PACKED, torch.tensor(1.0), 9, 3, "i2", 0, torch.int8),
            "dtype: expected one of .* got torch.int8",
        ),
        (
            lambda: ops.dequantize_activation(torch.ones(3, 4), torch.ones(3), torch.float32),
            r"x_q: expected int8 .* got torch.float32 \(3, 4\)",
        ),
        (
            lambda: ops.dequantize_activation(torch.ones(3, 4, dtype=torch.int8), torch.ones(4), torch.float32),
            r"x_scale: expected float32 \(3,\), got torch.float32 \(4,\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()
