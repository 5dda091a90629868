"""Traced calls refuse what others do, in the same words, and compile once for any number of rows."""

import pytest
import torch
from drawn_arguments import EACH_TENSOR, SIZES, right, told_by

from bitnet_jit import PackedBitLinear
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn import BitLinear
from bitnet_jit.ops.op import OPS

WITH_ROWS = [name for name, op in OPS.items() if ... in [size for a in op.spec.tensors for size in told_by(a)]]


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    """Dynamo counts recompilations of a line of code over the whole process."""
    torch._dynamo.reset()


def op(name):
    return getattr(torch.ops.bitnet_jit, name).default


def compiled(name, **options):
    return torch.compile(lambda *args: op(name)(*args), fullgraph=True, backend="eager", **options)


def packed(in_features=SIZES["K"], **options):
    codes = torch.randint(-1, 2, (SIZES["N"], in_features), dtype=torch.int8)
    return PackedBitLinear.from_codes(codes, torch.tensor(0.5), **options)


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_compiled_calls_refuse_in_the_same_words(name, argument):
    values = right(name)
    values[argument] = values[argument].double()
    with pytest.raises(InvalidInput) as plain:
        op(name)(*values.values())
    with pytest.raises(RuntimeError) as traced:
        compiled(name)(*values.values())
    assert str(plain.value) in str(traced.value)


@pytest.mark.parametrize("name", WITH_ROWS)
def test_compiled_once_for_any_number_of_rows(name):
    call = compiled(name, dynamic=True)
    taps = name == "delta_net"  # two of them: torch takes sizes that are equal at first for the same
    call(*right(name, leading=(3, 4) if taps else (2, 3)).values())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for leading in ((3, 2), (2, 4), (4, 3)):
            values = right(name, leading=leading).values()
            torch.testing.assert_close(call(*values), op(name)(*values), rtol=0, atol=0)


@pytest.mark.parametrize("make", [packed, lambda: packed(format="t5"), lambda: BitLinear(SIZES["K"], SIZES["N"])])
def test_a_layer_compiles_once_for_any_number_of_rows(make):
    layer = make()
    call = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    call(torch.randn(2, SIZES["K"]))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (3, 4, 8):
            x = torch.randn(rows, SIZES["K"])
            assert torch.equal(call(x), layer(x))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_rows_whose_number_only_values_tell():
    layer, x = packed(), torch.randn(9, SIZES["K"])

    def run(x, chosen):
        x_q, x_scale = torch.ops.bitnet_jit.quantize_activation(x[chosen])
        return torch.ops.bitnet_jit.quantized_linear(
            x_q, x_scale, layer.w_packed, layer.w_scale, None, SIZES["K"], SIZES["N"], layer.layout, 0, torch.float32
        )

    call = torch.compile(run, fullgraph=True, backend="aot_eager")
    for share in (0.5, 0.1, -9.0):
        chosen = x[:, 0] > share
        assert torch.equal(call(x, chosen), run(x, chosen))


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_layer_takes_any_number_of_rows_of_its_width(strict):
    layer = packed()
    rows = torch.export.Dim("rows", min=2, max=2048)
    program = torch.export.export(layer, (torch.randn(5, SIZES["K"]),), dynamic_shapes=({0: rows},), strict=strict)
    for number in (2, 17):
        x = torch.randn(number, SIZES["K"])
        assert torch.equal(program.module()(x), layer(x))
    with pytest.raises((AssertionError, RuntimeError, InvalidInput)):
        program.module()(torch.randn(5, SIZES["K"] - 1))


@pytest.mark.parametrize("strict", [True, False])
def test_export_refuses_another_width(strict):
    with pytest.raises((RuntimeError, InvalidInput), match=r"x: expected .*\(\.\.\., 70\), got .*\(5, 69\)"):
        torch.export.export(packed(), (torch.randn(5, SIZES["K"] - 1),), strict=strict)


@pytest.mark.parametrize("width", [65, 69, 71, 80])
def test_a_compiled_layer_refuses_another_width(width):
    call = torch.compile(packed(), fullgraph=True, backend="eager")
    call(torch.randn(5, SIZES["K"]))
    with pytest.raises((RuntimeError, InvalidInput), match=r"x: expected .*\(\.\.\., 70\), got"):
        call(torch.randn(5, width))
