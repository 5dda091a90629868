"""What becomes of x before a product, for Metal: codes filled up and by groups, and layers behind norms and gates."""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import floats
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit import reference
from bitnet_jit.kernels.metal.launch import Bound
from bitnet_jit.kernels.metal.layout import I2, I2_WORDS, padded_inputs
from bitnet_jit.kernels.metal.linear import few
from bitnet_jit.kernels.metal.linear.algorithm import FUSED, bind_fused
from bitnet_jit.kernels.metal.linear.parts import quantized
from bitnet_jit.kernels.metal.rowwise import rows
from bitnet_jit.kernels.metal.table import PRODUCTS
from bitnet_jit.problem import Problem, rows_bucket

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

EPS = 1e-6
FEW = next(algorithm for algorithm in PRODUCTS if algorithm.name == "few")


def fused_problem(op, shape, x_dtype, weight="float32", bias="float32"):
    count, out_features, in_features = shape
    return Problem(
        op, "mlx", rows_bucket(count), out_features, in_features, I2_WORDS.name, "a8", x_dtype, x_dtype, "row",
        bias=bias, w_dtype=weight,
    )  # fmt: skip


@given(data=st.data(), count=st.sampled_from([1, 3]), features=st.sampled_from([1, 33, 128, 130]))
@pytest.mark.parametrize("x_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("group_size", [0, 32])
def test_codes_of_rows_and_groups_are_filled_up_with_zeros(data, x_dtype, group_size, count, features):
    x, wide = floats(data.draw, count, features, x_dtype)
    activation = "a8g" if group_size else "a8"
    scale = "group" if group_size else "tensor"
    problem = Problem(
        "bit_linear", "mlx", count, 1, features, "", activation, x_dtype, scale=scale, group_size=group_size
    )
    bound = Bound(lambda n: (quantized(problem, n, "float16")[0],), lambda n: quantized(problem, n, "float16")[2])
    made = run_bound(bound, count, {"x": x}, {}, seed=features)
    wanted = reference.quantize_activation(wide)
    if group_size:
        wanted = reference.quantize_activation_groups(wide, min(group_size, features))
    assert made["codes"].shape == (count, padded_inputs(features))
    assert np.array_equal(made["codes"][:, :features], wanted[0])
    assert not made["codes"][:, features:].any()
    assert np.array_equal(made["x_scale"].reshape(wanted[1].shape), wanted[1], equal_nan=True)


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("op", FUSED)
@given(data=st.data(), count=st.sampled_from([1, 2, 3]), shape=st.sampled_from([(5, 33), (17, 600)]))
def test_fused_layers_give_the_bits_of_their_steps(op, has_norm, data, count, shape):
    has_norm |= op != "silu_mul_norm_bit_linear"
    out_features, in_features = shape
    rng = np.random.default_rng(count)
    (x, _), (other, _) = (floats(data.draw, count, in_features, "float16") for _ in range(2))
    weight = rng.standard_normal(in_features, dtype=np.float32) if has_norm else None
    w_q = rng.integers(-1, 2, shape).astype(np.int8)
    w_scale, bias = rng.random((2, out_features), dtype=np.float32)
    kind, fields = FUSED[op], {"weight": weight, "eps": EPS}
    tensors = {kind.x: x} | ({kind.other: other} if kind.other else {}) | fields
    total = {"total": ((count, in_features), "float16")} if kind.total else {}

    first = op.replace("_bit_linear", "_quantize")
    step = Problem(first, "mlx", count, in_features, in_features, x_dtype="float16", bias="float32" * has_norm)
    codes = {"x_q": ((count, in_features), "int8"), "x_scale": ((count,), "float32")}
    wanted = run_bound(rows.bind(step, None), count, tensors, total | codes)
    problem = fused_problem(op, (count, *shape), "float16", "float32" * has_norm)
    packed = I2_WORDS.from_canonical(I2.pack(w_q), *shape)
    layer = {"w_packed": packed, "w_scale": w_scale, "bias": bias}
    outputs = total | {"y": ((count, out_features), "float16")}
    bound = bind_fused(problem, few.Config(few.EXPONENT, 1, 2, 1, 2), FEW)
    result = run_bound(bound, count, tensors | layer, outputs, seed=1)

    y = reference.quantized_linear(wanted["x_q"], wanted["x_scale"], w_q, w_scale, bias)
    same = np.testing.assert_array_equal
    same(result["codes"][:, :in_features], wanted["x_q"])
    same(result["x_scale"][:, 0], wanted["x_scale"])
    same(values(result["y"], "float16"), stored(y, "float16")[1])
    if kind.total:
        same(values(result["total"], "float16"), values(wanted["total"], "float16"))
