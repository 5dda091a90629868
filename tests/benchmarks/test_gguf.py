"""GGUF files of the benchmark: blocks that hold the same weights, by their definition and by the package `gguf`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.models.shapes import llama_config, random_shape
from benchmarks.providers.models import gguf_blocks, gguf_file
from bitnet_jit.packing.i2 import I2

SMALL = llama_config(96, 256, 512, 2, 4, 2, 64, 10000.0)


def values(blocks, kind, rows):
    """Dequantize blocks code by code, as the definition says: float32 (N, K)."""
    size = kind.block // 4 + 2
    blocks = blocks.reshape(rows, -1, size)
    scale_at = 0 if kind is gguf_blocks.Q2_0 else size - 2
    scale = np.ascontiguousarray(blocks[:, :, scale_at : scale_at + 2]).view("<f2").astype(np.float32)
    codes = np.delete(blocks, [scale_at, scale_at + 1], 2)
    w = np.empty((rows, blocks.shape[1], kind.block), np.float32)
    for k in range(kind.block):
        byte, place = (k // 4, k % 4) if kind is gguf_blocks.Q2_0 else (k // 128 * 32 + k % 32, k % 128 // 32)
        w[:, :, k] = (codes[:, :, byte] >> 2 * place & 3).astype(np.float32) - 1
    return (w * scale).reshape(rows, -1)


@st.composite
def weights(draw, kind):
    """Draw codes (N, K) and scales of blocks, the smallest and largest of float16 among them."""
    rows, blocks = draw(st.sampled_from([1, 3, 17, 33])), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    w_q = rng.integers(-1, 2, (rows, blocks * kind.block), dtype=np.int8)
    scales = rng.uniform(0.001, 2, (rows, blocks)).astype(np.float16)
    scales[0, 0] = draw(st.sampled_from([2**-24, 1.0, 65504.0]))
    return w_q, scales


@pytest.mark.parametrize("kind", [gguf_blocks.TQ2_0, gguf_blocks.Q2_0], ids=lambda kind: kind.name)
@given(data=st.data())
def test_blocks_hold_the_same_weights(kind, data):
    w_q, scales = data.draw(weights(kind))
    blocks = kind.encode(I2.pack(w_q), scales)
    expected = w_q * np.repeat(scales.astype(np.float32), kind.block, 1)
    assert np.array_equal(values(blocks, kind, len(w_q)), expected)


@given(weights(gguf_blocks.TQ2_0))
def test_the_package_reads_the_same_weights(drawn):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    w_q, scales = drawn
    blocks = gguf_blocks.tq2_0(I2.pack(w_q), scales)
    read = gguf.dequantize(blocks, gguf.GGMLQuantizationType.TQ2_0)
    assert np.array_equal(read, w_q * np.repeat(scales.astype(np.float32), 256, 1))


@pytest.mark.parametrize(
    ("kind", "places", "expected"),
    [
        (gguf_blocks.TQ2_0, (0, 32, 64, 96), "a4" + 63 * "55" + "0038"),
        (gguf_blocks.Q2_0, (0, 1, 2, 3), "0038a4" + 15 * "55"),
    ],
    ids=["TQ2_0", "Q2_0"],
)
def test_a_block_byte_by_byte(kind, places, expected):
    w_q = np.zeros((1, kind.block), np.int8)
    w_q[0, list(places)] = -1, 0, 1, 1
    assert kind.encode(I2.pack(w_q), np.full((1, 1), 0.5, np.float16)).tobytes().hex() == expected


def test_scales_spread_over_blocks():
    one = gguf_blocks.block_scales(np.array(0.5, np.float32), gguf_blocks.TQ2_0, (3, 512), 0)
    assert (one.shape, one.dtype, set(one.ravel())) == ((3, 2), np.float16, {np.float16(0.5)})
    groups = gguf_blocks.block_scales(np.array([[1.0, 2.0]], np.float32), gguf_blocks.Q2_0, (1, 256), 128)
    assert groups.tolist() == [[1, 1, 2, 2]]
    wide = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    assert gguf_blocks.block_scales(wide, gguf_blocks.TQ2_0, (1, 512), 128).tolist() == [[1, 3]]


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-9, 70000.0, np.inf, np.nan])
def test_scales_beyond_float16_are_refused(scale):
    with pytest.raises(ValueError, match="out of its range"):
        gguf_blocks.block_scales(np.array(scale, np.float32), gguf_blocks.TQ2_0, (1, 256), 0)


@pytest.mark.parametrize(
    ("inputs", "group_size", "name"),
    [((2560, 6912), 0, "TQ2_0"), ((4096, 12288), 128, "Q2_0"), ((4096,), 256, "TQ2_0"), ((384, 1024), 0, "Q2_0")],
)
def test_the_type_is_that_whose_blocks_are_filled(inputs, group_size, name):
    assert gguf_blocks.choose_type(inputs, group_size).name == name


def test_where_the_type_is_not_known_the_nearest_stands_in():
    only = gguf_blocks.choose_type((4096, 12288), 128, lambda kind: kind is gguf_blocks.TQ2_0)
    assert only is gguf_blocks.TQ2_0
    with pytest.raises(ValueError, match="multiples of 64"):
        gguf_blocks.choose_type((384,), 0, lambda kind: kind is gguf_blocks.TQ2_0)


def test_inputs_that_fill_no_blocks_are_refused():
    with pytest.raises(ValueError, match="multiples of 64"):
        gguf_blocks.choose_type((100,), 0)


def test_rows_of_halves_become_rows_of_pairs():
    """As the converter of llama.cpp does: reshape(heads, 2, D / 2).swapaxes(1, 2); each row appears once."""
    order = gguf_file.paired_rows(3 * 10, 10)
    assert sorted(order) == list(range(30))
    assert order[10:20].tolist() == [10, 15, 11, 16, 12, 17, 13, 18, 14, 19]


def test_q8_0_is_within_half_a_step():
    import torch

    x = torch.randn(5000, 64, generator=torch.Generator().manual_seed(1))
    x[3] = 0
    blocks = gguf_file.q8_0(x).reshape(5000, 2, 34)
    scale = np.ascontiguousarray(blocks[:, :, :2]).view("<f2").astype(np.float32)
    read = blocks[:, :, 2:].view(np.int8) * scale
    error = np.abs(read - x.numpy().reshape(5000, 2, 32)).max(-1, keepdims=True)
    assert np.all(error <= scale * (0.5 + 127 * 2**-11) + 1e-7)
    assert not read[3].any()


@pytest.mark.parametrize("group_size", [0, 128])
def test_entries_tell_the_bytes_that_they_make(group_size):
    shape = random_shape("small", "small", SMALL, group_size)
    tensors = list(gguf_file.entries(shape.open_reader(), gguf_file.ternary_type(shape, SMALL), "int8"))
    assert len({entry.name for entry in tensors}) == len(tensors) == 3 + 2 * (2 + 7)
    for entry in tensors:
        assert entry.make().nbytes == entry.num_bytes, entry.name


def test_a_file_holds_the_model(tmp_path: Path):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    shape = random_shape("small", "small", SMALL)
    gguf_file.write_gguf(tmp_path / "model.gguf", shape, "checkpoint", gguf_blocks.TQ2_0)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    reader = shape.open_reader()
    embedding = reader.dense("embedding").float().numpy()
    assert np.array_equal(read["token_embd.weight"].data.astype(np.float32), embedding)
    down = read["blk.1.ffn_down.weight"]
    assert down.tensor_type.name == "TQ2_0"
    assert np.array_equal(gguf.dequantize(down.data, down.tensor_type), dense(reader, "feed_forward.down", 256, 512))
    key = gguf.dequantize(read["blk.1.attn_k.weight"].data, down.tensor_type)
    assert np.array_equal(key, dense(reader, "attention.k", 128, 256)[gguf_file.paired_rows(128, 64)])


def dense(reader, part, rows, columns):
    """Return a layer of block 1, dequantized."""
    from bitnet_jit.checkpoints.decoder_names import LinearName
    from bitnet_jit.checkpoints.ternary import empty_i2

    weight = reader.ternary(LinearName(f"blocks.1.{part}", rows, columns, False), empty_i2(rows, columns))
    return I2.unpack(weight.w_packed.numpy(), columns) * weight.w_scale.numpy()
