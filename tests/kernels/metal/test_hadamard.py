"""Metal's rotations have the bits of the reference, alone and behind norms and gates."""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given
from hypothesis import strategies as st
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit import reference
from bitnet_jit.kernels.metal.rowwise import hadamard, rows
from bitnet_jit.problem import MAX_BLOCK, Problem, rows_bucket

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

EPS = 1e-5


def problem_of(op, shape, block=0, x_dtype="float32", bias="float32"):
    count, features = shape
    return Problem(op, "mlx", rows_bucket(count), features, features, x_dtype=x_dtype, bias=bias, block=block)


def draw(count, features, extreme=None):
    """Draw x and other (M, K), weight and signs (K,); the middle row of x has an extreme value."""
    rng = np.random.default_rng(count * 1009 + features)
    x, other = rng.standard_normal((2, count, features), dtype=np.float32)
    if extreme is not None:
        x[count // 2, features // 3] = extreme
    weight = rng.random(features, dtype=np.float32) + 0.5
    return x, other, weight, rng.choice(np.array([-1, 1], np.float32), features)


@pytest.mark.parametrize("op", hadamard.ALONE)
@pytest.mark.parametrize("is_signed", [True, False])
@given(
    block=st.sampled_from([1, 2, 16, 256, 1024]),
    runs=st.sampled_from([1, 3, 5]),
    count=st.sampled_from([1, 3]),
    extreme=st.sampled_from([None, -0.0, 1e-41, 3e38, np.nan, np.inf]),
)
def test_rotations_are_exact(op, is_signed, block, runs, count, extreme):
    x, _, _, signs = draw(count, block * runs, extreme)
    problem = problem_of(op, x.shape, block, bias="float32" if is_signed else "")
    signs = signs if is_signed else None
    made = run_bound(hadamard.bind(problem, None), count, {"x": x, "signs": signs}, {"y": (x.shape, "float32")}, runs)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(made["y"], getattr(reference, op)(x, signs, block), equal_nan=True)


def test_the_largest_block_fills_a_threadgroup():
    x, _, _, signs = draw(1, MAX_BLOCK)
    bound = hadamard.bind(problem_of("hadamard", x.shape, MAX_BLOCK), None)
    made = run_bound(bound, 1, {"x": x, "signs": signs}, {"y": (x.shape, "float32")})
    assert bound.launches(1)[0].threads == 1024
    assert np.array_equal(made["y"], reference.hadamard(x, signs, MAX_BLOCK))


@pytest.mark.parametrize("x_dtype", ["float16", "bfloat16"])
def test_half_types_are_rounded_once(x_dtype):
    x, _, _, signs = draw(3, 96)
    x, wide = stored(x, x_dtype)
    bound = hadamard.bind(problem_of("hadamard", x.shape, 32, x_dtype), None)
    y = values(run_bound(bound, 3, {"x": x, "signs": signs}, {"y": (x.shape, x_dtype)})["y"], x_dtype)
    wanted = reference.hadamard(wide, signs, 32)
    assert (np.abs(y - wanted) <= {"float16": 2.0**-11, "bfloat16": 2.0**-8}[x_dtype] * np.abs(wanted)).all()


@pytest.mark.parametrize("op", hadamard.BEHIND)
def test_rotations_behind_norms_and_gates_have_the_bits_of_their_steps(op):
    x, other, weight, signs = draw(3, 96)
    kind, has_norm = hadamard.BEHIND[op], op != "silu_mul_hadamard"
    tensors = {kind.x: x, "weight": weight if has_norm else None, "eps": EPS, "signs": signs}
    tensors |= {kind.other: other} if kind.other else {}
    outputs = {"y": (x.shape, "float32")} | ({"total": (x.shape, "float32")} if kind.total else {})
    bias = "float32" if has_norm else ""
    made = run_bound(hadamard.bind_behind(problem_of(op, x.shape, 32, bias=bias), None), 3, tensors, outputs)
    first = op.replace("_hadamard", "" if has_norm else "_norm")
    step = run_bound(rows.bind(problem_of(first, x.shape, bias=bias), None), 3, tensors, outputs)
    assert np.array_equal(made["y"], reference.hadamard(step["y"], signs, 32))
    assert not kind.total or np.array_equal(made["total"], step["total"])
