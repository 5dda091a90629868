"""The head in plain torch: int8 equals the reference, floats are near it, in pieces or whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit import reference
from bitnet_jit.kernels.torch import head as kernels


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_floats_in_pieces_are_the_whole(monkeypatch, dtype, rows):
    x = torch.randn(rows, 40, generator=generator(0))
    head = torch.randn(1000, 40, generator=generator(1)).to(dtype)
    monkeypatch.setitem(kernels.CHUNK_ELEMENTS, "cpu", 40 * 64)
    logits = kernels.float_logits(x, head)
    assert (logits.dtype, logits.shape) == (torch.float32, (rows, 1000))
    assert torch.allclose(logits.double(), x.double() @ head.double().T, atol=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from((1, 3, 17)),
    outputs=st.sampled_from((1, 3, 33)),
    inputs=st.sampled_from((1, 2, 33, 1024, 1025, 2050)),
    bad=st.sampled_from((0.0, float("nan"), float("inf"))),
)
def test_int8_equals_the_reference(seed, rows, outputs, inputs, bad):
    x = torch.randn(rows, inputs, generator=generator(seed))
    x[-1, 0] += bad
    x[0] *= 1e-7
    head = torch.randint(-128, 128, (outputs, inputs), generator=generator(seed), dtype=torch.int8)
    scale = torch.rand(outputs, generator=generator(seed))
    logits = kernels.int8_logits(x, head, scale)
    np.testing.assert_array_equal(logits, reference.head_logits(x.numpy(), head.numpy(), scale.numpy()))


@pytest.mark.parametrize("code", [127, -128])
def test_the_longest_sums_are_exact(code):
    x, head = torch.full((2, 2**16), 3.0), torch.full((1, 2**16), code, dtype=torch.int8)
    logits = kernels.int8_logits(x, head, torch.ones(1))
    np.testing.assert_array_equal(logits, reference.head_logits(x.numpy(), head.numpy(), np.ones(1)))
