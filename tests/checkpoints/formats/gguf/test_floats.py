"""Blocks of quantized floats: the numbers of ggml's own Python, bit for bit."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.gguf.types import TYPES

QUANTIZED = [number for number, of in TYPES.items() if of.to_floats is not None]


@pytest.mark.parametrize("type_id", QUANTIZED)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 9))
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_numbers_are_those_of_ggml(type_id, seed, count):
    of = TYPES[type_id]
    content = np.random.default_rng(seed).integers(0, 256, (count, of.num_bytes), np.uint8)
    expected = quants.dequantize(content, GGMLQuantizationType(type_id))
    actual = of.to_floats(torch.from_numpy(content))
    assert actual.dtype == torch.float32
    assert np.array_equal(actual.numpy(), expected.reshape(count, of.block), equal_nan=True)


def test_sizes_are_those_of_ggml():
    from gguf import GGML_QUANT_SIZES

    known = {kind.value: sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    assert len(known.keys() & TYPES.keys()) >= 9
    for number in known.keys() & TYPES.keys():
        assert (TYPES[number].block, TYPES[number].num_bytes) == known[number], TYPES[number].name
