"""Problems, operands and expected results of the linear ops on codes, which Triton kernels must match bit for bit."""

import numpy as np
from triton_calls import laid, problem_of

from bitnet_jit import reference


def exact_problem(op, shape, layout, scale="tensor", bias=None, x_dtype="float32"):
    """Return the problem of an op on codes."""
    return problem_of(
        op,
        shape,
        layout=layout,
        activation="a8",
        x_dtype=x_dtype if op == "bit_linear" else "int8",
        y_dtype="int32" if op == "ternary_matmul" else x_dtype,
        scale="" if op == "ternary_matmul" else scale,
        bias="float32" if bias is not None and op != "ternary_matmul" else "",
    )


def draw(shape, extreme):
    """Draw x (M, K), x_q of the whole range, w_q (N, K)."""
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


def arguments(op, layout, x, x_q, x_scale, w_q, w_scale, bias):
    """Return the arguments that an op takes."""
    w_packed = laid(w_q, layout)
    if op == "bit_linear":
        return x, w_packed, w_scale, bias
    return (x_q, x_scale, w_packed, w_scale, bias) if op == "quantized_linear" else (x_q, w_packed)


def expected(op, x, x_q, x_scale, w_q, w_scale, bias):
    """Return the result of an op by the reference."""
    if op == "bit_linear":
        return reference.bit_linear(x, w_q, w_scale, bias)
    if op == "quantized_linear":
        return reference.quantized_linear(x_q, x_scale, w_q, w_scale, bias)
    return reference.ternary_matmul(x_q, w_q)
