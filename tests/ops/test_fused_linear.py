"""Layers with what stands before them give the bits of their steps, on the CPU, eager, recorded and traced."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.kernels import registry
from bitnet_jit.ops.fused_linear import (
    add_rms_norm_bit_linear,
    relu2_mul_norm_bit_linear,
    silu_mul_norm_bit_linear,
)
from bitnet_jit.ops.linear import quantized_linear
from bitnet_jit.ops.norm import (
    add_rms_norm_quantize,
    relu2_mul_norm_quantize,
    rms_norm_quantize,
    silu_mul_norm_quantize,
)
from bitnet_jit.ops.norm_linear import rms_norm_bit_linear
from bitnet_jit.ops.program import record

EPS = 1e-5
EXTREMES = [None, 0.0, 1e-41, torch.nan, torch.inf, -torch.inf, -3e4]
STEPS = {
    rms_norm_bit_linear: rms_norm_quantize,
    add_rms_norm_bit_linear: add_rms_norm_quantize,
    relu2_mul_norm_bit_linear: relu2_mul_norm_quantize,
    silu_mul_norm_bit_linear: silu_mul_norm_quantize,
}


def operands_of(out_features, in_features, scale, format, generator):
    """Return the operands of a packed layer behind its input."""
    layout = registry.preferred_layout(format, "cpu")
    w_q = torch.randint(-1, 2, (out_features, in_features), generator=generator, dtype=torch.int8)
    w_packed = layout.from_canonical(layout.format.pack(w_q), out_features, in_features)
    w_scale = torch.rand(() if scale == "tensor" else (out_features,), generator=generator) + 0.1
    bias = torch.randn(out_features, generator=generator)
    return w_packed, w_scale, bias, in_features, out_features, layout.name, 0


def in_steps(op, xs, weight, layer):
    """Return what the steps of an op give."""
    *total, x_q, x_scale = STEPS[op](*xs, weight, EPS)
    return *total, quantized_linear(x_q, x_scale, *layer, xs[0].dtype)


def equal(results, wanted):
    """Return whether tensors are the same bits, any NaN for any other."""
    results = results if isinstance(results, tuple) else (results,)
    return all(torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) for a, b in zip(results, wanted, strict=True))


@pytest.mark.parametrize("op", STEPS)
@settings(deadline=None)
@given(
    rows=st.integers(0, 5),
    out_features=st.sampled_from([1, 3, 17, 67]),
    in_features=st.sampled_from([1, 3, 33, 257]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from(["tensor", "row"]),
    format=st.sampled_from(["i2", "t5"]),
    extreme=st.sampled_from(EXTREMES),
    seed=st.integers(0, 99),
)
def test_an_op_is_its_steps(op, rows, out_features, in_features, dtype, scale, format, extreme, seed):
    generator = torch.Generator().manual_seed(seed)
    xs = list(torch.randn(2, rows, in_features, generator=generator).to(dtype))[: 1 + (op is not rms_norm_bit_linear)]
    if extreme is not None and rows:
        xs[0][rows // 2, 1:] = extreme
    weight = torch.randn(in_features, generator=generator)
    layer = operands_of(out_features, in_features, scale, format, generator)
    options = ("a8",) if op is rms_norm_bit_linear else ()
    assert equal(op(*xs, weight, EPS, *layer, *options), in_steps(op, xs, weight, layer))


@pytest.mark.parametrize("op", STEPS)
def test_a_recorded_op_runs_its_steps_on_new_values(op):
    generator = torch.Generator().manual_seed(3)
    xs = [torch.randn(2, 70, generator=generator) for _ in range(1 + (op is not rms_norm_bit_linear))]
    weight, layer = torch.rand(70, generator=generator), operands_of(37, 70, "row", "i2", generator)
    options = ("a8",) if op is rms_norm_bit_linear else ()
    with torch.no_grad():
        run, results = record(lambda: op(*xs, weight, EPS, *layer, *options))
        for x in xs:
            x.normal_(generator=generator)
        run()
        assert equal(results, in_steps(op, xs, weight, layer))


def test_parts_of_one_tensor_are_gate_and_up():
    generator = torch.Generator().manual_seed(4)
    gate, up = torch.randn(3, 96, generator=generator).chunk(2, -1)
    weight, layer = torch.rand(48, generator=generator), operands_of(17, 48, "tensor", "i2", generator)
    wanted = in_steps(relu2_mul_norm_bit_linear, (gate.clone(), up.clone()), weight, layer)
    assert equal(relu2_mul_norm_bit_linear(gate, up, weight, EPS, *layer), wanted)


def test_silu_may_have_no_norm():
    generator = torch.Generator().manual_seed(5)
    gate, up = torch.randn(2, 3, 48, generator=generator)
    layer = operands_of(17, 48, "tensor", "i2", generator)
    wanted = quantized_linear(*silu_mul_norm_quantize(gate, up, None, 0.0), *layer, gate.dtype)
    assert equal(silu_mul_norm_bit_linear(gate, up, None, 0.0, *layer), (wanted,))
