"""Nested tensors go through layers and norms as their parts would, one by one."""

import pytest
import torch
from torch import nn

from bitnet_jit import BitLinear, LoraLinear, RMSNorm

IN, OUT = 16, 5
PARTS = [torch.randn(rows, IN, generator=torch.Generator().manual_seed(rows)) for rows in (2, 4, 1)]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # products of floats, of other numbers of rows

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def adapted():
    result = LoraLinear(BitLinear(IN, OUT).pack(), r=2)
    nn.init.normal_(result.lora_B.weight)
    return result


LAYERS = {
    "bit": lambda: BitLinear(IN, OUT),
    "bit, norm inside": lambda: BitLinear(IN, OUT, use_rms_norm=True),
    "packed": lambda: BitLinear(IN, OUT).pack(),
    "packed, norm inside": lambda: BitLinear(IN, OUT, use_rms_norm=True).pack(),
    "adapted": adapted,
    "norm": lambda: RMSNorm(IN),
}


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_parts_are_computed_as_by_themselves(name, layout):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    expected = [layer(part) for part in PARTS]
    contexts = [torch.no_grad] + [torch.inference_mode] * (layout is torch.strided)
    for context in contexts:
        with context():
            result = layer(torch.nested.nested_tensor(PARTS, layout=layout)).unbind()
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other, **(CLOSE if name == "adapted" else {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, layout):
    torch.manual_seed(0)
    layer, parts = LAYERS[name](), [part.clone().requires_grad_() for part in PARTS]
    sum(layer(part).square().sum() for part in parts).backward()
    nested = torch.nested.nested_tensor(PARTS, layout=layout, requires_grad=True)
    sum(part.square().sum() for part in layer(nested).unbind()).backward()
    for one, other in zip(nested.grad.unbind(), parts, strict=True):
        torch.testing.assert_close(one, other.grad, **CLOSE)
