"""Bound kernels: their operands by name, and the parts that must outlive the whole."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.numba.bound import ROW_STRIDE
from bitnet_jit.kernels.numba.linear.sizes import Sizes, sizes_of
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES
from bitnet_jit.problem import Problem


def test_sizes_outlive_the_bound_kernel():
    problem = Problem("ternary_matmul", "cpu", 1, 37, 70, "i2/n64k16", "a8", "int8", "int32")
    kernel = next(kernel for kernel in registry.kernels_of("numba") if kernel.unsupported_reason(problem) is None)
    (sizes,) = kernel.bind(problem, kernel.configs(problem)[0]).numbers(3)
    others = [np.full(len(Sizes._fields), -1, np.int64) for _ in range(1000)]  # would take the place of freed memory
    read = (ctypes.c_int64 * len(Sizes._fields)).from_address(sizes)
    assert tuple(read) == sizes_of(problem, 3, 1)
    assert len(others) == 1000


SCALES, CODES = ("x_q", "x_scale"), ("w_packed", "w_scale")
PAGE_SCALES = "key_scale", "value_scale"
BLOCK = 32
FACTOR = BLOCK**-0.5  # of a rotation
OPERANDS = {  # in the order in which each op's entry point takes them
    "bit_linear": ("x", None, *CODES, "bias", "y"),
    "quantized_linear": (*SCALES, *CODES, "bias", "y"),
    "ternary_matmul": ("x_q", None, "w_packed", None, None, "y"),
    "quantize_activation": ("x", None, None, None, 0.0, None, *SCALES),
    "rms_norm": ("x", None, None, "weight", "eps", None, "y", None),
    "rms_norm_quantize": ("x", None, None, "weight", "eps", None, *SCALES),
    "add_rms_norm_quantize": ("x", "delta", None, "weight", "eps", "total", *SCALES),
    "add_rms_norm": ("x", "delta", None, "weight", "eps", "total", "y", None),
    "relu2_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "silu_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "sigmoid_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "gelu_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "relu2_mul_norm_quantize": ("gate", "up", ROW_STRIDE, "weight", "eps", None, *SCALES),
    "silu_mul_norm_quantize": ("gate", "up", ROW_STRIDE, "weight", "eps", None, *SCALES),
    "rms_norm_gradients": ("dy", "x", "weight", "eps", "dx", "dw"),
    "quantize_weight": ("weight", *CODES),
    "dequantize_weight": ("w", *CODES),
    "dequantize_activation": (*SCALES, "x"),
    "embedding": ("ids", "table", "table_scale", "y"),
    "packed_embedding": ("ids", *CODES, "y"),
    "head_logits": ("x", "head", "head_scale", "logits"),
    "delta_net": (
        *("mixed", ROW_STRIDE, "beta_alpha", "conv_weight", "decay", "dt_bias"),
        *("history", "states", "positions", "starts", "slots", "y"),
    ),
    "paged_attention": ("qkv", "keys", "values", "rotary", "positions", "starts", "tables", *PAGE_SCALES, "y"),
    "hadamard": ("x", None, None, None, 0.0, None, "signs", FACTOR, "y"),
    "inverse_hadamard": ("x", None, None, None, 0.0, None, "signs", FACTOR, "y"),
    "rms_norm_hadamard": ("x", None, None, "weight", "eps", None, "signs", FACTOR, "y"),
    "add_rms_norm_hadamard": ("x", "delta", None, "weight", "eps", "total", "signs", FACTOR, "y"),
    "silu_mul_hadamard": ("gate", "up", ROW_STRIDE, None, 0.0, None, "signs", FACTOR, "y"),
}
FIELDS = {  # of problems, where an op has its own
    **{op: {"in_features": 64, "block": BLOCK} for op in OPERANDS if "hadamard" in op},
    "paged_attention": {"heads": 5, "kv_heads": 1, "head_dim": 10, "cache_dtype": "int8"},
    "delta_net": {"heads": 7, "kv_heads": 1, "head_dim": 1},
    "embedding": {"w_dtype": "int8"},
    "head_logits": {"w_dtype": "int8"},
}
OPTIONAL = {
    "bit_linear": "bias",
    "quantized_linear": "bias",
    "silu_mul_norm": "weight",
    "silu_mul_norm_quantize": "weight",
    "sigmoid_mul_norm": "weight",
    "gelu_mul_norm": "weight",
    "hadamard": "signs",
    "inverse_hadamard": "signs",
}


def bound_of(op, bias="float32"):
    """Bind every kernel of an op that this CPU can run."""
    fields = FIELDS.get(op, {})
    problem = Problem(op, "cpu", 4, 70, 37, "i2/n64k16", "a8", "float32", "float32", "tensor", bias=bias)
    problem = replace(problem, **fields)
    for kernel in registry.kernels_of("numba"):
        if kernel.op == op and kernel.unsupported_reason(problem) is None:
            yield kernel.bind(problem, kernel.configs(problem)[0])


def test_every_op_has_named_operands():
    assert {kernel.op for kernel in registry.kernels_of("numba")} == set(OPERANDS)


@pytest.mark.parametrize("op", OPERANDS)
def test_operands_are_named_in_the_order_of_the_entry_point(op):
    kernels = list(bound_of(op))
    assert kernels
    for bound in kernels:
        assert bound.operands == OPERANDS[op]
        assert all(number is not None for number in bound.numbers(3))
        sizes = [7] * len(bound.sizes)
        assert bound.workspace_bytes(3, 2, *sizes) >= bound.workspace_bytes(3, 1, *sizes) >= TEAM_BYTES


@pytest.mark.parametrize(("op", "name"), OPTIONAL.items())
def test_an_absent_operand_is_none(op, name):
    for bound in bound_of(op, bias=""):
        assert bound.operands == tuple(None if operand == name else operand for operand in OPERANDS[op])


def test_an_entry_point_is_made_once():
    for bound in bound_of("dequantize_activation"):
        assert bound.entry(3) is bound.entry(3)
