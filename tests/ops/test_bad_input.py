"""Each wrong argument of an op is refused in words that name it, also after a good call has made the op's plan."""

import pytest
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.op import OPS

IN, OUT = 70, 37
LAYOUT = registry.preferred_layout("i2", "cpu")

# A meta tensor beside others makes torch choose the fake implementation. So the functions behind the ops are called
# here: they are what a mixture of real devices reaches.
QUANTIZED_LINEAR = OPS["quantized_linear"].run
GATED = ("relu2_mul_norm", "relu2_mul_norm_quantize", "silu_mul_norm", "silu_mul_norm_quantize")
NORMS = ("rms_norm", "rms_norm_quantize", "add_rms_norm", "add_rms_norm_quantize", *GATED)

ops = torch.ops.bitnet_jit


def packed():
    return LAYOUT.from_canonical(LAYOUT.format.pack(torch.ones(OUT, IN, dtype=torch.int8)), OUT, IN)


def linear(**changed):
    """Arguments of bit_linear, some of them changed."""
    arguments = {
        "x": torch.ones(3, IN),
        "w_packed": packed(),
        "w_scale": torch.tensor(0.5),
        "bias": torch.ones(OUT),
        "in_features": IN,
        "out_features": OUT,
        "layout": LAYOUT.name,
        "group_size": 0,
        "activation": "a8",
    }
    return (arguments | changed).values()


def quantized(**changed):
    """Arguments of quantized_linear, some of them changed."""
    arguments = {
        "x_q": torch.ones(3, IN, dtype=torch.int8),
        "x_scale": torch.ones(3),
        "w_packed": packed(),
        "w_scale": torch.tensor(0.5),
        "bias": torch.ones(OUT),
        "in_features": IN,
        "out_features": OUT,
        "layout": LAYOUT.name,
        "group_size": 0,
        "y_dtype": torch.float32,
    }
    return (arguments | changed).values()


BAD_LINEAR = {
    "x of another width": ({"x": torch.ones(3, IN - 8)}, r"x: expected .*\(\.\.\., 70\), got .*\(3, 62\)"),
    "x of integers": ({"x": torch.ones(3, IN, dtype=torch.int32)}, "x: .*int32"),
    "x of float64": ({"x": torch.ones(3, IN, dtype=torch.float64)}, "x: .*float64"),
    "x without dimensions": ({"x": torch.tensor(1.0)}, r"x: .*\(\)"),
    "x without inputs": ({"x": torch.ones(3, 0)}, r"x: .*\(3, 0\)"),
    "x too wide": ({"x": torch.ones(1, 2**18 + 1)}, "x: .*262145"),
    "weight of another dtype": ({"w_packed": packed().to(torch.int32)}, "w_packed: .*int32"),
    "weight of another shape": ({"w_packed": packed()[:1, :1]}, "w_packed: .*expected uint8"),
    "weight elsewhere": ({"w_packed": packed().to("meta")}, "w_packed: is on meta, x on cpu"),
    "scale of float64": ({"w_scale": torch.tensor(0.5, dtype=torch.float64)}, "w_scale: .*float64"),
    "scale of one element": ({"w_scale": torch.ones(1)}, r"w_scale: .*\(1,\)"),
    "scale of too many rows": ({"w_scale": torch.ones(OUT + 1)}, r"w_scale: .*\(38,\)"),
    "scale of groups without a size": ({"w_scale": torch.ones(OUT, 3)}, r"w_scale: .*group_size=0.*\(37, 3\)"),
    "scale of other groups": ({"w_scale": torch.ones(OUT, 2), "group_size": 32}, r"w_scale: .*\(37, 2\)"),
    "scale of three dimensions": ({"w_scale": torch.ones(1, 1, 1)}, r"w_scale: .*\(1, 1, 1\)"),
    "scale elsewhere": ({"w_scale": torch.tensor(0.5, device="meta")}, "w_scale: is on meta, x on cpu"),
    "bias of another shape": ({"bias": torch.ones(OUT + 1)}, r"bias: .*\(37,\), got .*\(38,\)"),
    "bias of integers": ({"bias": torch.ones(OUT, dtype=torch.int32)}, "bias: .*int32"),
    "bias elsewhere": ({"bias": torch.ones(OUT, device="meta")}, "bias: is on meta, x on cpu"),
    "no outputs": ({"out_features": 0}, "out_features: .*0"),
    "other outputs": ({"out_features": OUT + 64}, "w_packed: .*101"),
    "unknown layout": ({"layout": "i3"}, "layout: .*'i3'"),
    "layout of another format": ({"layout": "t5"}, "w_packed: .*'t5'"),
    "unknown activation": ({"activation": "a4"}, "activation: .*'a4'"),
    "groups of inputs without groups of weights": ({"activation": "a8g"}, "activation: 'a8g' .*group_size=0"),
    "negative group": ({"group_size": -1}, "group_size: .*-1"),
}
BAD_QUANTIZED = {
    "x of floats": ({"x_q": torch.ones(3, IN)}, "x_q: .*float32"),
    "x_scale of another shape": ({"x_scale": torch.ones(3, 1)}, r"x_scale: .*\(3,\).*\(3, 1\)"),
    "x_scale of float64": ({"x_scale": torch.ones(3, dtype=torch.float64)}, "x_scale: .*float64"),
    "x_scale elsewhere": ({"x_scale": torch.ones(3, device="meta")}, "x_scale: .*meta"),
    "weight of another dtype": BAD_LINEAR["weight of another dtype"],
    "scale of float64": BAD_LINEAR["scale of float64"],
    "scale elsewhere": (BAD_LINEAR["scale elsewhere"][0], "w_scale: is on meta, x_q on cpu"),
    "bias elsewhere": (BAD_LINEAR["bias elsewhere"][0], "bias: is on meta, x_q on cpu"),
    "output of integers": ({"y_dtype": torch.int32}, "y_dtype: .*int32"),
}


@pytest.mark.parametrize(("changed", "words"), BAD_LINEAR.values(), ids=BAD_LINEAR)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_bit_linear(changed, words, warm):
    if warm:
        ops.bit_linear(*linear())
    with pytest.raises(InvalidInput, match=words):
        ops.bit_linear(*linear(**changed))


@pytest.mark.parametrize(("changed", "words"), BAD_QUANTIZED.values(), ids=BAD_QUANTIZED)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_quantized_linear(changed, words, warm):
    if warm:
        QUANTIZED_LINEAR(*quantized())
    with pytest.raises(InvalidInput, match=words):
        QUANTIZED_LINEAR(*quantized(**changed))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(3, IN), packed()), "x_q: .*float32"),
        ((torch.ones(3, IN, dtype=torch.int8), packed()[0]), "w_packed: .*expected uint8"),
        ((torch.ones(3, IN, dtype=torch.int8), packed().to(torch.int8)), "w_packed: .*int8"),
    ],
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_ternary_matmul(arguments, words, warm):
    if warm:
        ops.ternary_matmul(torch.ones(3, IN, dtype=torch.int8), packed(), IN, OUT, LAYOUT.name)
    with pytest.raises(InvalidInput, match=words):
        ops.ternary_matmul(*arguments, IN, OUT, LAYOUT.name)


BAD_ROWS = {
    "integers": (torch.ones(3, IN, dtype=torch.int32), None, "x: .*int32"),
    "float64": (torch.ones(3, IN, dtype=torch.float64), None, "x: .*float64"),
    "no dimensions": (torch.tensor(1.0), None, r"x: .*\(\)"),
    "no features": (torch.ones(3, 0), None, r"x: .*\(3, 0\)"),
    "too many features": (torch.ones(1, 2**18 + 1), None, "x: .*262145"),
    "weight of another shape": (torch.ones(3, IN), torch.ones(IN + 1), r"weight: .*\(71,\)"),
    "weight of integers": (torch.ones(3, IN), torch.ones(IN, dtype=torch.int32), "weight: .*int32"),
    "weight elsewhere": (torch.ones(3, IN), torch.ones(IN, device="meta"), "weight: .*meta"),
}


@pytest.mark.parametrize(("x", "weight", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_norms(name, x, weight, words, warm):
    gated, inputs = "_mul_" in name, 2 if "_mul_" in name or "add_" in name else 1
    if warm:
        OPS[name].run(*[torch.ones(3, IN)] * inputs, torch.ones(IN), 1e-5)
    weight = torch.ones(x.shape[-1] if x.dim() else 1) if weight is None else weight
    with pytest.raises(InvalidInput, match=words.replace("x: ", "gate: ") if gated else words):
        OPS[name].run(*[x] * inputs, weight, 1e-5)


@pytest.mark.parametrize(("x", "weight", "words"), list(BAD_ROWS.values())[:5], ids=list(BAD_ROWS)[:5])
def test_quantize_activation(x, weight, words):
    with pytest.raises(InvalidInput, match=words):
        ops.quantize_activation(x)


@pytest.mark.parametrize("up", [torch.ones(3, IN - 1), torch.ones(3, IN).bfloat16(), torch.ones(3, IN, device="meta")])
@pytest.mark.parametrize("name", GATED)
def test_gate_and_up_must_match(name, up):
    with pytest.raises(InvalidInput, match="up: "):
        OPS[name].run(torch.ones(3, IN), up, torch.ones(IN), 1e-5)
