"""Ternary blocks of GGUF as canonical codes, against their tables, worked bytes and ggml's own Python."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from gguf_files import PQ2_0, PTQ1_0, Q2_0, TQ1_0, TQ2_0, i2_s, pack_blocks
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.gguf.i2_s import read_i2_s
from bitnet_jit.checkpoints.formats.gguf.runs import to_i2
from bitnet_jit.checkpoints.formats.gguf.types import TYPES
from bitnet_jit.packing.i2 import I2

BY_BLOCKS = [TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0]
WORKED = {
    TQ1_0: ({0: 1, 32: -1, 128: 1, 240: -1, 244: 1}, "BA" + 47 * "80" + "467F7F7F" + "0038"),
    TQ2_0: ({0: -1, 64: 1, 96: 1}, "A4" + 63 * "55" + "0038"),
    Q2_0: ({0: -1, 2: 1, 3: 1}, "0038" + "A4" + 15 * "55"),
    PQ2_0: ({0: -1, 2: 1, 3: 1}, "0038" + "A4" + 31 * "55"),
    PTQ1_0: ({0: 1, 16: -1, 64: 1, 80: 1, 88: -1, 120: -1, 122: 1}, "BA" + 15 * "80" + "B9" + 7 * "80" + "467F0038"),
}


def decode(content: bytes, type_id: int) -> torch.Tensor:
    """Return the codes (B, block) of blocks; memory to be filled is poisoned with codes 3."""
    of = TYPES[type_id]
    blocks = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, of.num_bytes)
    out = torch.full((len(blocks), of.block // 4), 255, dtype=torch.uint8)
    to_i2(blocks, of.runs, out)
    return I2.unpack(out, of.block)


@pytest.mark.parametrize("type_id", BY_BLOCKS)
def test_worked_bytes(type_id):
    elements, content = WORKED[type_id]
    expected = torch.zeros(1, TYPES[type_id].block, dtype=torch.int8)
    for place, code in elements.items():
        expected[0, place] = code
    assert torch.equal(decode(bytes.fromhex(content), type_id), expected)
    assert pack_blocks(expected.numpy(), 0.5, type_id).hex().upper() == content


@pytest.mark.parametrize("type_id", BY_BLOCKS)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 70))
def test_codes_are_those_of_the_table(type_id, seed, count):
    codes = np.random.default_rng(seed).integers(-1, 2, (count, TYPES[type_id].block), np.int8)
    assert np.array_equal(decode(pack_blocks(codes, 0.5, type_id), type_id).numpy(), codes)


@pytest.mark.parametrize("type_id", BY_BLOCKS)
def test_more_blocks_than_a_slice_holds(type_id):
    codes = np.random.default_rng(3).integers(-1, 2, (20_000, TYPES[type_id].block), np.int8)
    assert np.array_equal(decode(pack_blocks(codes, 0.5, type_id), type_id).numpy(), codes)


@pytest.mark.parametrize("type_id", [TQ1_0, TQ2_0])
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_are_those_of_ggml(type_id, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (5, 256), np.int8)
    codes[0, 0] = 1  # else its scale is 0
    content = quants.quantize(codes.astype(np.float32) * 0.5, GGMLQuantizationType(type_id)).tobytes()
    assert np.array_equal(decode(content, type_id).numpy(), codes)


def i2_s_codes(content: bytes, shape: tuple[int, int], variant: str) -> tuple[np.ndarray, float]:
    """Return the codes and the scale of an I2_S tensor."""
    out = torch.full((shape[0], shape[1] // 4), 255, dtype=torch.uint8)
    scale, _ = read_i2_s(torch.frombuffer(bytearray(content), dtype=torch.uint8), variant, out, shape[1])
    return I2.unpack(out, shape[1]).numpy(), float(scale)


@pytest.mark.parametrize(("variant", "elements"), [("x86", (0, 32, 64, 96)), ("arm", (0, 16, 32, 48))])
def test_worked_bytes_of_i2_s(variant, elements):
    content = bytes.fromhex("1A" + 31 * "55" + "0000003F" + 28 * "00")
    codes, scale = i2_s_codes(content, (1, 128), variant)
    expected = np.zeros((1, 128), np.int8)
    expected[0, list(elements)] = -1, 0, 1, 1
    assert np.array_equal(codes, expected)
    assert scale == 0.5


@pytest.mark.parametrize("variant", ["x86", "arm", "rows4"])
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 3))
def test_variants_of_i2_s(variant, seed, rows, blocks):
    codes = np.random.default_rng(seed).integers(-1, 2, (4 * rows, 128 * blocks), np.int8)
    read, scale = i2_s_codes(i2_s(codes, 1.75, variant), codes.shape, variant)
    assert np.array_equal(read, codes)
    assert scale == 1.75


@pytest.mark.parametrize(("variant", "shape"), [("x86", (4, 64)), ("arm", (4, 32)), ("rows4", (2, 128))])
def test_a_shape_that_a_variant_does_not_hold_is_refused(variant, shape):
    with pytest.raises(ValueError, match="another variant"):
        i2_s_codes(bytes(shape[0] * shape[1] // 4 + 32), shape, variant)
