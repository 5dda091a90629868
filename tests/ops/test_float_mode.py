"""A kernel's numbers are the same in threads that flush denormals to zero and in threads that do not."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.nn import BitLinear, PackedBitLinear

IN, OUT, ROWS = 96, 640, 33
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST = {torch.float32: 1e-44, torch.bfloat16: 1e-39, torch.float16: 6e-8}  # denormals of each


def generator():
    return torch.Generator().manual_seed(0)


def tiny(*shape, dtype=torch.float32):
    """Numbers that are denormal in their dtype, or whose int8 scale is."""
    sizes = SMALLEST[dtype] * 10.0 ** torch.randint(0, 4, (*shape[:-1], 1), generator=generator())
    return (torch.randn(shape, generator=generator()) * sizes).to(dtype)


def codes(*shape, low=-128, high=128):
    return torch.randint(low, high, shape, generator=generator(), dtype=torch.int8)


def layer(scale, **options):
    return PackedBitLinear.from_codes(codes(OUT, IN, low=-1, high=2), scale, **options)


def rows_of(dtype):
    """Calls on denormal inputs of a dtype: each returns a tensor, or several."""
    ops, weight = torch.ops.bitnet_jit, torch.ones(IN)
    x, up, scale = tiny(ROWS, IN, dtype=dtype), torch.ones(ROWS, IN, dtype=dtype), tiny(ROWS, 1)[:, 0]
    layers = {
        "tensor": (layer(torch.tensor(1e-3)), x),
        "tensor, t5": (layer(torch.tensor(1e-3), format="t5"), x),
        "row": (layer(tiny(OUT, 1)[:, 0].abs()), up),
        "group": (layer(tiny(OUT, 3).abs(), group_size=32), up),
        "a16": (layer(torch.tensor(1e-3), activation="a16"), x),
        "BitLinear": (BitLinear(IN, OUT, dtype=dtype).requires_grad_(False), x),
    }
    return {
        "quantize_activation": lambda: ops.quantize_activation(x),
        "dequantize_activation": lambda: ops.dequantize_activation(codes(ROWS, IN), scale, dtype),
        "rms_norm": lambda: ops.rms_norm(x, weight, 1e-42),
        "rms_norm without eps": lambda: ops.rms_norm(x, weight, 0.0),
        "rms_norm_gradients": lambda: ops.rms_norm_gradients(x, up, weight, 1e-5),
        "rms_norm_quantize": lambda: ops.rms_norm_quantize(x, weight, 1e-42),
        "add_rms_norm": lambda: ops.add_rms_norm(x, x, weight, 1e-42),
        "relu2_mul_norm": lambda: ops.relu2_mul_norm(up, x, weight, 1e-42),
        "silu_mul_norm": lambda: ops.silu_mul_norm(up, x, None, 0.0),
        "sigmoid_mul_norm": lambda: ops.sigmoid_mul_norm(up, x, None, 0.0),
        "gelu_mul_norm": lambda: ops.gelu_mul_norm(up, x, None, 0.0),
        "relu2_mul_norm_quantize": lambda: ops.relu2_mul_norm_quantize(up, x, weight, 1e-42),
        "silu_mul_norm_quantize": lambda: ops.silu_mul_norm_quantize(up, x, None, 0.0),
        "round_weight": lambda: ops.round_weight(x),
        **{name: lambda made=made, x=x: made(x) for name, (made, x) in layers.items()},
    }


@pytest.fixture
def flush_to_zero():
    """Switches flushing on in this thread, and off again whatever happens."""
    if not torch.set_flush_denormal(False):
        pytest.skip("torch cannot flush denormals on this CPU")
    yield lambda: torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)
    bitnet_jit.set_num_threads(None)


def bits(result):
    tensors = result if isinstance(result, tuple) else (result,)
    return [tensor.contiguous().view(torch.uint8).tolist() for tensor in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", rows_of(torch.float32))
def test_flushing_in_the_calling_thread_changes_no_bit(flush_to_zero, name, dtype):
    call = rows_of(dtype)[name]
    bitnet_jit.set_num_threads(1)
    expected = bits(call())
    flush_to_zero()
    for threads in (1, 2, 5):
        bitnet_jit.set_num_threads(threads)
        assert bits(call()) == expected


def test_the_calling_thread_keeps_its_mode(flush_to_zero):
    denormal = torch.tensor([1e-42])
    assert float(denormal * 0.5) != 0
    layer(torch.tensor(1.0))(torch.ones(ROWS, IN))
    assert float(denormal * 0.5) != 0
    flush_to_zero()
    layer(torch.tensor(1.0))(torch.ones(ROWS, IN))
    assert float(denormal * 0.5) == 0


def test_denormal_rows_are_quantized_as_the_reference_does(flush_to_zero):
    from bitnet_jit import reference

    x = tiny(ROWS, IN)
    expected = reference.quantize_activation(x.numpy())
    flush_to_zero()
    for result, wanted in zip(torch.ops.bitnet_jit.quantize_activation(x), expected, strict=True):
        assert result.numpy().tobytes() == wanted.tobytes()
