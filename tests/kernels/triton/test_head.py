"""The output head by the contract: integers to the bit, floats as near as their products let them be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_calls import DEVICE, ON_GPU, needs_device

from bitnet_jit import reference
from bitnet_jit.dtypes import dtype_name
from bitnet_jit.kernels.triton.head import floats, int8
from bitnet_jit.kernels.triton.head.floats import HeadConfig
from bitnet_jit.kernels.triton.rowwise import rows
from bitnet_jit.kernels.triton.tensors import bind_call
from bitnet_jit.ops.head import HEAD_LOGITS
from bitnet_jit.ops.norm import RMS_NORM
from bitnet_jit.ops.norm_head import ADD_RMS_NORM_HEAD_LOGITS
from bitnet_jit.problem import Gpu, Problem

pytestmark = needs_device
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]  # the interpreter multiplies no bfloat16
some = settings(max_examples=min(settings.default.max_examples, 12))
SHAPES = st.tuples(
    st.sampled_from([1, 0, 3, 17, 33]), st.sampled_from([1, 17, 130, 300]), st.sampled_from([1, 33, 200])
)


def call(x, head, head_scale=None, config=None, norm=None):
    """Call the kernel that takes such a head, on x or on x normalized by the weight `norm`."""
    if norm is not None:
        (kernel,) = (kernel for kernel in rows.KERNELS if kernel.op == "rms_norm")
        problem = RMS_NORM.spec.problem(RMS_NORM.spec.check((x, norm, 1e-5)))
        bound = kernel.bind(problem, kernel.configs(problem)[0])
        x = bind_call(bound, RMS_NORM.spec.operands_of(problem, x.shape[:-1]), x.device)(x, norm, 1e-5)
    problem = HEAD_LOGITS.spec.problem(HEAD_LOGITS.spec.check((x, head, head_scale)))
    module = floats if head_scale is None else int8
    operands = HEAD_LOGITS.spec.operands_of(problem, x.shape[:-1])
    bound = module.bind(problem, config or module.configs(problem)[0])
    return bind_call(bound, operands, x.device)(x, head, head_scale)


def draw(shape, x_dtype, head_dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    m, n, k = shape
    x, scale = torch.randn(m, k, generator=generator), torch.rand(n, generator=generator) + 0.01
    if head_dtype == torch.int8:
        head = torch.randint(-127, 128, (n, k), generator=generator, dtype=torch.int8)
        return x.to(DEVICE, x_dtype), head.to(DEVICE), scale.to(DEVICE)
    return x.to(DEVICE, x_dtype), torch.randn(n, k, generator=generator).to(DEVICE, head_dtype), None


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@some
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), extreme=st.sampled_from([None, 0.0, 1e-30, 6e4, np.nan, np.inf]))
def test_heads_of_int8_are_the_contract_to_the_bit(shape, dtype, extreme):
    x, head, scale = draw(shape, dtype, torch.int8)
    if extreme is not None and len(x):
        x[len(x) // 2] = extreme
    wanted = reference.head_logits(x.float().cpu().numpy(), head.cpu().numpy(), scale.cpu().numpy()) if len(x) else None
    y = call(x, head, scale).cpu().numpy()
    assert y.shape == (shape[0], shape[1])
    assert wanted is None or np.array_equal(y, wanted, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@some
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), extreme=st.sampled_from([None, 0.0, 1e-30, 6e4, np.nan, np.inf]))
def test_a_norm_before_a_head_of_int8_has_the_bits_of_both(shape, dtype, extreme):
    x, head, scale = draw(shape, dtype, torch.int8)
    delta, weight = x.flip(0) * 3, torch.linspace(0.5, 2, shape[2]).to(DEVICE, dtype)
    if extreme is not None and len(x):
        x[len(x) // 2] = extreme
    total = x + delta
    check_norm_head(x, delta, weight, head, scale, call(total, head, scale, norm=weight))


@some
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), head_dtype=st.sampled_from(DTYPES))
def test_a_norm_before_a_head_of_floats_has_the_bits_of_both(shape, dtype, head_dtype):
    x, head, _ = draw(shape, dtype, head_dtype)
    delta, weight = x.flip(0) * 3, torch.linspace(0.5, 2, shape[2]).to(DEVICE)
    check_norm_head(x, delta, weight, head, None, call(x + delta, head, norm=weight))


def check_norm_head(x, delta, weight, head, scale, expected):
    """Compare the fused kernel with the two kernels, bit for bit."""
    arguments = (x, delta, weight, 1e-5, head, scale)
    spec = ADD_RMS_NORM_HEAD_LOGITS.spec
    problem = spec.problem(spec.check(arguments))
    kernel = (floats if scale is None else int8).KERNELS[1]
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    y = bind_call(bound, spec.operands_of(problem, x.shape[:-1]), x.device)(*arguments)
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))


@pytest.mark.skipif(not ON_GPU, reason="the interpreter adds up as NumPy does, and takes long")
@pytest.mark.parametrize("rows", [1, 2, 16, 64, 130])
@pytest.mark.parametrize("features", [2560, 3072, 4096, 6912])
@pytest.mark.parametrize("head_dtype", [torch.int8, torch.bfloat16])
def test_a_norm_before_a_head_at_the_sizes_of_models(rows, features, head_dtype):
    x, head, scale = draw((rows, 1000, features), torch.bfloat16, head_dtype)
    delta, weight = x.flip(1) * 3, torch.linspace(0.5, 2, features).to(DEVICE, torch.bfloat16)
    check_norm_head(x, delta, weight, head, scale, call(x + delta, head, scale, norm=weight))


@some
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), head_dtype=st.sampled_from([*DTYPES, torch.bfloat16]))
def test_heads_of_floats(shape, dtype, head_dtype):
    if head_dtype == dtype == torch.bfloat16 and not ON_GPU:
        return
    x, head, _ = draw(shape, dtype, head_dtype)
    exact, sizes = x.double() @ head.double().T, x.double().abs() @ head.double().abs().T
    y = call(x, head)
    assert y.dtype == torch.float32
    assert ((y - exact).abs() <= 2e-6 * sizes + 1e-30).all()


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in (*DTYPES, torch.bfloat16)], ids=str)
def test_a_row_that_is_not_finite_touches_no_other(dtypes, value):
    if not ON_GPU and dtypes[0] == dtypes[1] == torch.bfloat16:
        return
    x, head, _ = draw((5, 40, 70), *dtypes)
    clean = call(x, head)
    x[2, 3] = value
    y = call(x, head)
    assert torch.equal(y[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    assert not y[2].isfinite().any()


def test_problems_choose_how_floats_are_multiplied():
    gpu = Gpu("NVIDIA H200", "9.0", 132, 232448)
    for x, head, mode in (("bfloat16", "bfloat16", 0), ("float32", "float32", 2), ("float16", "bfloat16", 2)):
        problem = problem_with(x, head, gpu)
        assert floats.mode_of(problem) == mode
    assert int8.unsupported_reason(problem_with("bfloat16", "bfloat16", gpu)) == "takes heads of int8"
    assert floats.unsupported_reason(problem_with("bfloat16", "int8", gpu)) == "takes heads of floats"


def problem_with(x_dtype, w_dtype, gpu):
    return Problem("head_logits", "cuda", 1, 100, 64, x_dtype=x_dtype, w_dtype=w_dtype, gpu=gpu)


@pytest.mark.skipif(not ON_GPU, reason="products of the interpreter are NumPy's, in an order of its own")
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
    ids=lambda dtypes: "-".join(map(dtype_name, dtypes)),
)
def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it(dtypes):
    x, head, _ = draw((300, 1000, 2560), *dtypes)
    wanted = call(x, head)
    for m in (1, 2, 16, 17, 64, 65, 130):
        problem = HEAD_LOGITS.spec.problem(HEAD_LOGITS.spec.check((x[:m], head, None)))
        for config in floats.configs(problem):
            assert torch.equal(call(x[:m], head, None, config), wanted[:m]), (m, config)
    if dtypes[0] == dtypes[1] == torch.bfloat16:
        assert torch.equal(call(x[:64], head, None, HeadConfig(32, 64, 64, 4, 2)), wanted[:64])
