"""`forward_quantized`: a packed layer on codes that are there already, as shared inputs of a decoder have them."""

import pytest
import torch

from bitnet_jit import PackedBitLinear
from bitnet_jit.ops import eager

quantize_activation = eager("quantize_activation")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", ["i2", "t5"])
@pytest.mark.parametrize("shape", [(1, 64, 32), (3, 37, 5)])  # whole bytes of codes, and ends of rows and bytes
def test_it_gives_the_bits_of_a_call(shape, format, dtype):
    rows, in_features, out_features = shape
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8, generator=generator)
    bias, x = torch.randn(out_features, generator=generator), torch.randn(2, rows, in_features, generator=generator)
    layer = PackedBitLinear.from_codes(codes, torch.tensor(0.3), bias, format=format)
    x_q, x_scale = quantize_activation(x.to(dtype))
    y = layer.forward_quantized(x_q, x_scale, dtype)
    assert y.dtype == dtype
    assert torch.equal(y, layer(x.to(dtype)))
    exact = (x_q.double() @ codes.double().T) * (x_scale.double()[..., None] * 0.3) + bias.double()
    assert torch.allclose(y.double(), exact, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-5)


def test_a_layer_that_was_loaded_from_meta_lays_its_weight_first():
    source = PackedBitLinear.from_codes(torch.ones(3, 8, dtype=torch.int8), torch.tensor(1.0))
    layer = PackedBitLinear(8, 3, bias=False, device="meta")
    layer.load_state_dict(source.state_dict(), assign=True)
    x_q, x_scale = torch.ones(8, dtype=torch.int8), torch.tensor(1.0)
    assert layer.forward_quantized(x_q, x_scale, torch.float32).tolist() == [8.0] * 3
