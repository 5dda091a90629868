"""What torch asks of an op, asked of every op of ours: opcheck, torch.compile(fullgraph=True), autocast, meta."""

import pytest
import torch
from torch.library import opcheck

import bitnet_jit.ops  # noqa: F401
from bitnet_jit.kernels import registry

ROWS, IN, OUT = 5, 70, 37  # none of them a multiple of anything


def generator():
    return torch.Generator().manual_seed(0)


def floats(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator()).to(dtype)


def codes(*shape, low=-128, high=128):
    return torch.randint(low, high, shape, generator=generator(), dtype=torch.int8)


def ids(*shape):
    return torch.randint(0, OUT, shape, generator=generator())


def layout(format):
    return registry.preferred_layout(format, "cpu")


def packed(format="i2"):
    actual = layout(format)
    return actual.from_canonical(actual.format.pack(codes(OUT, IN, low=-1, high=2)), OUT, IN)


def scale(kind):
    return {"tensor": torch.tensor(0.5), "row": floats(OUT).abs(), "group": floats(OUT, 3).abs()}[kind]


def linear(x, kind="tensor", format="i2", bias=True, activation="a8"):
    group_size = 32 if kind == "group" else 0
    bias = floats(OUT) if bias else None
    return (x, packed(format), scale(kind), bias, IN, OUT, layout(format).name, group_size, activation)


def normed(x, *args, **options):
    x, *others = linear(x, *args, **options)
    return (x, floats(IN), 1e-5, *others)


def fused(x, other, *args, norm=True, **options):
    x, *others, _ = linear(x, *args, **options)
    return (x, other, floats(IN) if norm else None, 1e-5, *others)


def quantized(y_dtype, kind="tensor"):
    _, w_packed, w_scale, bias, *options, _ = linear(None, kind)
    return (codes(2, ROWS, IN), floats(2, ROWS).abs(), w_packed, w_scale, bias, *options, y_dtype)


def signs():
    return floats(64).sign()


def attention(dtype=torch.float32, cache=torch.float32):
    tokens, heads, kv_heads, head_dim = 7, 4, 2, 10
    shapes = (5, kv_heads, head_dim, 64), (5, kv_heads, 64, head_dim)
    positions, starts = torch.tensor((0, 1, 2, 63, 64, 65, -1)), torch.tensor((0, 3, 6))
    return (
        floats(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype),
        *((codes(*shape) if cache == torch.int8 else floats(*shape).to(cache)) for shape in shapes),
        floats(70, head_dim),
        *(index.int() for index in (positions, starts, torch.tensor(((4, -1), (1, 2))))),
        *(floats(5, kv_heads, 64).abs() if cache == torch.int8 else None for _ in range(2)),
    )


def recurrence(dtype=torch.float32, taps=4):
    heads, key_heads, dk, dv = 4, 2, 10, 7
    width = 2 * key_heads * dk + heads * dv
    positions, starts = torch.tensor((0, 1, 2, 0, 1, 2, -1)), torch.tensor((0, 3, 6))
    return (
        floats(7, width, dtype=dtype),
        floats(7, 2 * heads),
        floats(width, taps),
        -floats(heads).abs(),
        floats(heads),
        floats(3, taps - 1, width, dtype=dtype),
        floats(3, heads, dk, dv),
        *(index.int() for index in (positions, starts, torch.tensor((2, 0)))),
    )


CASES = {
    "delta_net": [recurrence(), recurrence(torch.bfloat16, 2)],
    "paged_attention": [attention(), attention(torch.bfloat16, torch.float16), attention(cache=torch.int8)],
    "bit_linear": [
        linear(floats(2, ROWS, IN)),
        linear(floats(ROWS, IN, dtype=torch.bfloat16), "row", bias=False),
        linear(floats(IN, dtype=torch.float16), "group"),
        linear(floats(ROWS, IN), format="t5"),
        linear(floats(ROWS, IN), activation="a16"),
        linear(floats(ROWS, IN), "group", activation="a8g"),
        linear(floats(0, IN)),
    ],
    "packed_logits": [
        linear(floats(2, ROWS, IN), bias=False)[:-1],
        linear(floats(ROWS, IN, dtype=torch.bfloat16), "row", "t5", bias=False)[:-1],
        linear(floats(IN, dtype=torch.float16), "group")[:-1],
    ],
    "rms_norm_bit_linear": [
        normed(floats(2, ROWS, IN)),
        normed(floats(ROWS, IN, dtype=torch.bfloat16), "row", "t5", bias=False),
        normed(floats(ROWS, IN), "group", activation="a16"),
        normed(floats(ROWS, IN), "group", activation="a8g"),
    ],
    "add_rms_norm_bit_linear": [
        fused(floats(2, ROWS, IN), floats(2, ROWS, IN) + 1),
        fused(*floats(2, ROWS, IN, dtype=torch.bfloat16), "row", "t5", bias=False),
    ],
    "relu2_mul_norm_bit_linear": [fused(floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, "group")],
    "silu_mul_norm_bit_linear": [
        fused(floats(2, ROWS, IN), floats(2, ROWS, IN) + 1),
        fused(*floats(2, ROWS, IN, dtype=torch.bfloat16), "row", norm=False),
    ],
    "quantized_linear": [quantized(torch.float32), quantized(torch.bfloat16, "row"), quantized(torch.float16, "group")],
    "ternary_matmul": [(codes(2, ROWS, IN), packed(), IN, OUT, layout("i2").name)],
    "bit_linear_input_grad": [(floats(2, ROWS, OUT), packed(), scale("row"), IN, OUT, layout("i2").name, 0)],
    "quantize_activation": [(floats(2, ROWS, IN),), (floats(IN, dtype=torch.bfloat16),)],
    "head_logits": [
        (floats(2, ROWS, IN), floats(OUT, IN, dtype=torch.bfloat16), None),
        (floats(IN, dtype=torch.bfloat16), floats(OUT, IN), None),
        (floats(2, ROWS, IN, dtype=torch.float16), codes(OUT, IN), floats(OUT).abs()),
        (floats(0, IN), codes(OUT, IN), floats(OUT).abs()),
    ],
    "add_rms_norm_head_logits": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5, codes(OUT, IN), floats(OUT).abs()),
        (*floats(2, ROWS, IN, dtype=torch.bfloat16), floats(IN), 1e-5, floats(OUT, IN, dtype=torch.bfloat16), None),
    ],
    "embedding": [
        (ids(2, ROWS), floats(OUT, IN, dtype=torch.bfloat16), None, torch.float32),
        (ids(ROWS).int(), codes(OUT, IN), floats(OUT).abs(), torch.bfloat16),
        (ids(), floats(OUT, IN), None, torch.float16),
        (ids(0), floats(OUT, IN), None, torch.float32),
    ],
    "packed_embedding": [
        (ids(2, ROWS), packed(), scale("row"), IN, OUT, layout("i2").name, 0, torch.float32),
        (ids(ROWS).int(), packed(), scale("group"), IN, OUT, layout("i2").name, 32, torch.bfloat16),
        (ids(), packed("t5"), scale("tensor"), IN, OUT, layout("t5").name, 0, torch.float16),
        (ids(0), packed(), scale("tensor"), IN, OUT, layout("i2").name, 0, torch.float32),
    ],
    "greedy": [
        (floats(2, ROWS, OUT), ids(2, ROWS), ids(2, ROWS).int()),
        (floats(ROWS, OUT), ids(ROWS), None),
        (floats(OUT), ids(), None),
        (floats(0, OUT), ids(0), None),
    ],
    "rms_norm": [(floats(2, ROWS, IN), floats(IN), 1e-5), (floats(ROWS, IN, dtype=torch.bfloat16), floats(IN), 1e-5)],
    "rms_norm_gradients": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), floats(IN), 1e-5),
        (floats(0, IN), floats(0, IN), floats(IN), 1e-5),
    ],
    "rms_norm_quantize": [(floats(2, ROWS, IN), floats(IN), 1e-5)],
    "add_rms_norm_quantize": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), floats(IN), 1e-5),
    ],
    "add_rms_norm": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), floats(IN), 1e-5),
    ],
    "relu2_mul_norm": [(floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5)],
    "silu_mul_norm": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), None, 0.0),
    ],
    "sigmoid_mul_norm": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), None, 0.0),
    ],
    "gelu_mul_norm": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), None, 0.0),
    ],
    "hadamard": [
        (floats(2, ROWS, 64), signs(), 32),
        (floats(64, dtype=torch.bfloat16), None, 2),
        (floats(0, 64), signs(), 64),
    ],
    "inverse_hadamard": [(floats(2, ROWS, 64), signs(), 16), (floats(ROWS, 64, dtype=torch.float16), None, 64)],
    "rms_norm_hadamard": [
        (floats(2, ROWS, 64), floats(64), 1e-5, signs(), 32),
        (floats(ROWS, 64, dtype=torch.bfloat16), floats(64), 1e-5, signs(), 4),
    ],
    "add_rms_norm_hadamard": [
        (floats(2, ROWS, 64), floats(2, ROWS, 64) + 1, floats(64), 1e-5, signs(), 32),
        (floats(ROWS, 64, dtype=torch.bfloat16), floats(ROWS, 64, dtype=torch.bfloat16), floats(64), 1e-5, signs(), 4),
    ],
    "silu_mul_hadamard": [
        (floats(2, ROWS, 64), floats(2, ROWS, 64) + 1, signs(), 32),
        (floats(ROWS, 64, dtype=torch.bfloat16), floats(ROWS, 64, dtype=torch.bfloat16), signs(), 4),
    ],
    "relu2_mul_norm_quantize": [(floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5)],
    "silu_mul_norm_quantize": [
        (floats(2, ROWS, IN), floats(2, ROWS, IN) + 1, floats(IN), 1e-5),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(ROWS, IN, dtype=torch.bfloat16), None, 0.0),
    ],
    "bit_linear_train": [
        (floats(2, ROWS, IN), floats(OUT, IN), floats(OUT), None, 0.0),
        (floats(ROWS, IN, dtype=torch.bfloat16), floats(OUT, IN), None, None, 0.0),
        (floats(2, ROWS, IN), floats(OUT, IN), floats(OUT), floats(IN), 1e-5),
    ],
    "quantize_weight": [(floats(OUT, IN), layout("i2").name), (floats(OUT, IN, dtype=torch.bfloat16), "t5")],
    "dequantize_weight": [
        (packed(), scale("tensor"), IN, OUT, layout("i2").name, 0, torch.bfloat16),
        (packed("t5"), scale("row"), IN, OUT, layout("t5").name, 0, torch.float32),
        (packed(), scale("group"), IN, OUT, layout("i2").name, 32, torch.float16),
    ],
    "dequantize_activation": [(codes(2, ROWS, IN), floats(2, ROWS), torch.bfloat16)],
    "round_weight": [(floats(OUT, IN),), (floats(OUT, IN, dtype=torch.bfloat16),)],
    "round_activation": [(floats(2, ROWS, IN),)],
    "bit_linear_train_weight_grad": [(floats(2, ROWS, OUT), floats(2, ROWS, IN), torch.float32)],
}
EACH = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]
TRAINABLE = {  # arguments with a gradient
    "bit_linear": (0, 3),
    "rms_norm": (0, 1),
    "rms_norm_bit_linear": (0, 1, 5),
    "hadamard": (0,),
    "inverse_hadamard": (0,),
    "bit_linear_train": (0, 1, 2, 3),
}


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    """Dynamo counts recompilations of a line of code over the whole process."""
    torch._dynamo.reset()


def op(name):
    return getattr(torch.ops.bitnet_jit, name).default


def with_gradients(name, case):
    """The case with fresh leaves where the op has gradients."""
    return tuple(
        value.detach().clone().requires_grad_() if i in TRAINABLE.get(name, ()) and value is not None else value
        for i, value in enumerate(case)
    )


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def assert_same(actual, expected):
    for a, b in zip(outputs(actual), outputs(expected), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_no_op_is_forgotten_here():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("bitnet_jit::")}
    assert registered == {f"bitnet_jit::{name}" for name in CASES}


@pytest.mark.parametrize(("name", "case"), EACH)
def test_opcheck(name, case):
    opcheck(op(name), with_gradients(name, case))


@pytest.mark.parametrize(("name", "case"), EACH)
def test_meta_tensors_give_the_right_shapes(name, case):
    expected = op(name)(*case)
    actual = op(name)(*(value.to("meta") if isinstance(value, torch.Tensor) else value for value in case))
    for a, b in zip(outputs(actual), outputs(expected), strict=True):
        assert a.is_meta
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize(("name", "case"), EACH)
def test_compiled_whole_it_gives_the_same(name, case):
    compiled = torch.compile(lambda *args: op(name)(*args), fullgraph=True, backend="aot_eager")
    eager_args, compiled_args = with_gradients(name, case), with_gradients(name, case)
    expected, actual = op(name)(*eager_args), compiled(*compiled_args)
    assert_same(actual, expected)
    if name in TRAINABLE:
        for y in (expected, actual):
            y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
        for position in TRAINABLE[name]:
            if eager_args[position] is not None:
                assert_same(compiled_args[position].grad, eager_args[position].grad)


def test_compiled_once_for_any_number_of_rows():
    w_packed, w_scale, bias, *options = linear(floats(IN))[1:]
    compiled = torch.compile(
        lambda x: op("bit_linear")(x, w_packed, w_scale, bias, *options),
        fullgraph=True,
        backend="aot_eager",
        dynamic=True,
    )
    compiled(floats(2, IN))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (3, 4, 17, 600):
            x = floats(rows, IN)
            assert_same(compiled(x), op("bit_linear")(x, w_packed, w_scale, bias, *options))


@pytest.mark.parametrize(("name", "case"), EACH)
def test_autocast_changes_no_number_but_the_input(name, case):
    """Products inside an op stay exact under autocast; the layers cast their input, as nn.Linear does."""
    casts = name in ("bit_linear", "bit_linear_train", "rms_norm_bit_linear")
    expected = op(name)(case[0].bfloat16() if casts else case[0], *case[1:])
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(op(name)(*case), expected)
