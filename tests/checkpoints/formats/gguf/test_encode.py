"""Codes as blocks: those that the tables say, element by element, and back again."""

import numpy as np
import pytest
import torch
from gguf_files import I2_S, PQ2_0, PTQ1_0, Q2_0, TQ1_0, TQ2_0, i2_s, pack_blocks
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.gguf.encode import i2_s_bytes, to_blocks
from bitnet_jit.checkpoints.formats.gguf.i2_s import ARM, X86
from bitnet_jit.checkpoints.formats.gguf.runs import to_i2
from bitnet_jit.checkpoints.formats.gguf.types import TYPES
from bitnet_jit.packing.i2 import I2


@pytest.mark.parametrize("type_id", [TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0])
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 33))
def test_blocks_are_those_of_the_tables(type_id, seed, count):
    of, rng = TYPES[type_id], np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (count, of.block), np.int8)
    scales = rng.uniform(0.1, 2, count).astype(np.float16)
    packed = I2.pack(torch.from_numpy(codes))
    blocks = to_blocks(packed, torch.from_numpy(scales), of)
    assert blocks.numpy().tobytes() == pack_blocks(codes, scales, type_id)
    again = torch.empty_like(packed)
    to_i2(blocks, of.runs, again)
    assert torch.equal(again, packed)


@pytest.mark.parametrize(("variant", "stored"), [("x86", X86), ("arm", ARM)])
def test_i2_s_is_that_of_the_table(variant, stored):
    block, (run,) = stored.elements, stored.runs
    codes = np.random.default_rng(5).integers(-1, 2, (3, 256), np.int8)
    packed = I2.pack(torch.from_numpy(codes)).view(-1, block // 4)
    content = i2_s_bytes(packed, torch.tensor(1.75), run).numpy().tobytes()
    assert content[:-28] == i2_s(codes, 1.75, variant)[:-28]
    assert len(content) == TYPES[I2_S].size(codes.size)
