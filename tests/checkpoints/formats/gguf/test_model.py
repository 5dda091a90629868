"""Models in GGUF files are those that were written into them, to the bit."""

import numpy as np
import pytest
import torch
from gguf_files import I2_S, PQ2_0, PTQ1_0, Q2_0, TQ1_0, TQ2_0, pack_blocks, write_gguf
from gguf_models import as_gguf, assert_same_weights, floats, metadata_of, tensors_of
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.checkpoints.decoder_tensors import block_layers
from bitnet_jit.checkpoints.formats.gguf.model import scale_of
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.models.rope import frequencies
from bitnet_jit.quant.ternary import coarsest_scale

ARCHITECTURES = {"bitnet": "bitnet-b1.58", "llama": "llama", "qwen3": "qwen3"}
WIDE = {"hidden_size": 512, "intermediate_size": 512, "head_dim": 128, "num_hidden_layers": 1}


@pytest.fixture
def make_pair(write_checkpoint, tmp_path):
    """Return a function that writes a model in both formats and loads both."""

    def make(model_type="bitnet", type_id=I2_S, architecture=None, **fields):
        origin = bitnet_jit.load(write_checkpoint(model_type=model_type, **WIDE, **fields))
        path = as_gguf(origin, tmp_path / "model.gguf", architecture or ARCHITECTURES[model_type], type_id)
        return origin, bitnet_jit.load(path)

    return make


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_model_is_the_one_that_was_written(make_pair, model_type):
    origin, read = make_pair(model_type)
    assert read.config == origin.config
    assert_same_weights(origin, read)
    if model_type != "qwen3":  # whose activations stay floats
        ids = list(b"In the beginning")
        assert read.generate(ids, 8).tolist() == origin.generate(ids, 8).tolist()


@pytest.mark.parametrize("type_id", [TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0])
def test_every_type_holds_the_same_codes(make_pair, type_id):
    origin, read = make_pair(type_id=type_id)
    assert_same_weights(origin, read)
    assert all(layer.activation == "a8" for layer in block_layers(read.blocks[0]))


def test_rows_of_q_and_k_are_put_in_halves_and_their_biases_with_them(make_pair):
    origin, read = make_pair("llama", attention_bias=True)
    assert_same_weights(origin, read)


def test_rope_divisors_are_those_of_llama_3(write_checkpoint, tmp_path):
    said = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = {"rope_theta": 5e5, "rope_scaling": {**said, "original_max_position_embeddings": 16}}
    origin = bitnet_jit.load(write_checkpoint(model_type="llama", **WIDE, **scaling))
    plain = frequencies(origin.config.head_dim, 5e5, None)
    tensors = tensors_of(origin, "llama") | {"rope_freqs.weight": floats(plain / origin.rope.frequencies)}
    read = bitnet_jit.load(write_gguf(tmp_path / "model.gguf", metadata_of(origin, "llama"), tensors))
    torch.testing.assert_close(read.rope.frequencies, origin.rope.frequencies, rtol=1e-6, atol=0)
    ids = list(b"In the beginning")
    assert read.generate(ids, 8).tolist() == origin.generate(ids, 8).tolist()


def test_the_embedded_model_writes_its_own_text(tiny, tmp_path):
    read = bitnet_jit.load(as_gguf(tiny, tmp_path / "tiny.gguf", "bitnet-b1.58"))
    ids = read.tokenizer.encode("In the beginning")
    assert ids == list(b"In the beginning")
    assert read.generate(ids, 40).tolist() == tiny.generate(ids, 40).tolist()
    assert read.tokenizer.decode(read.generate(ids, 24).tolist()).startswith("In the beginning of ")


@pytest.mark.parametrize(("type_id", "block"), [(TQ1_0, 256), (TQ2_0, 256), (Q2_0, 64), (PQ2_0, 128), (PTQ1_0, 128)])
def test_scales_of_blocks_are_groups(make_pair, tmp_path, type_id, block):
    origin, _ = make_pair("qwen3", type_id)
    scales = np.random.default_rng(1).uniform(0.5, 1, 512 * 512 // block).astype(np.float16)
    codes = np.random.default_rng(2).integers(-1, 2, (512, 512), np.int8)
    tensors = tensors_of(origin, "qwen3", type_id)
    for name in ("blk.0.ffn_gate.weight", "token_embd.weight"):
        rows = tensors[name][1][0]
        tensors[name] = type_id, (rows, 512), pack_blocks(codes[:rows], scales[: rows * 512 // block], type_id)
    read = bitnet_jit.load(write_gguf(tmp_path / "groups.gguf", metadata_of(origin, "qwen3"), tensors))
    layer = read.blocks[0].feed_forward.gate_up
    codes_read, scales_read = layer.unpack()
    assert (layer.activation, layer.group_size) == ("a16", block)
    assert np.array_equal(codes_read[:512].numpy(), codes)
    assert np.array_equal(scales_read[:512].numpy(), scales.reshape(512, -1).astype(np.float32))
    up, up_scale = origin.blocks[0].feed_forward.gate_up.unpack()
    assert torch.equal(codes_read[512:], up[512:])
    assert torch.equal(scales_read[512:], up_scale[512:, None].half().float().expand(-1, 512 // block))
    assert isinstance(read.embedding, PackedTable)
    rows = codes[[3, 255]] * scales.astype(np.float32).reshape(512, -1).repeat(block, 1)[[3, 255]]
    assert np.array_equal(read.embedding.look_up(torch.tensor([3, 255]), torch.float32).numpy(), rows)
    assert read.generate([1, 2, 3], 4).shape == (7,)


def loaded(tmp_path, decoder, architecture="bitnet-b1.58", change=lambda tensors: None):
    """Write a decoder with other tensors, and load it."""
    tensors = tensors_of(decoder, architecture)
    change(tensors)
    return bitnet_jit.load(write_gguf(tmp_path / "a.gguf", metadata_of(decoder, architecture), tensors))


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.0.attn_q.weight", "blk.5.attn_sub_norm.weight"])
def test_a_missing_tensor_is_named(tiny, tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name}: expected .* found no such tensor"):
        loaded(tmp_path, tiny, change=lambda tensors: tensors.pop(name))


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q_norm.weight", "blk.3.attn_q.bias", "output.bias", "blk.6.ffn_up.weight"]
)
def test_a_tensor_that_the_architecture_has_no_place_for_is_named(tiny, tmp_path, name):
    with pytest.raises(CheckpointError, match=f"of bitnet-b1.58 alone, found 1 others: {name}; without them"):
        loaded(tmp_path, tiny, change=lambda tensors: tensors.update({name: floats(torch.ones(64))}))


def test_a_bias_that_is_missing_is_named(write_checkpoint, tmp_path):
    origin = bitnet_jit.load(write_checkpoint(model_type="llama", attention_bias=True, **WIDE))
    with pytest.raises(CheckpointError, match="blk.0.attn_output.bias: expected .* found no such tensor"):
        loaded(tmp_path, origin, "llama", lambda tensors: tensors.pop("blk.0.attn_output.bias"))


def test_a_type_that_holds_no_plain_numbers_is_named(tiny, tmp_path):
    quantized = {"rope_freqs.weight": (8, (32,), bytes(34))}
    with pytest.raises(CheckpointError, match="rope_freqs.weight: expected F32, F16 or BF16, found Q8_0"):
        loaded(tmp_path, tiny, change=lambda tensors: tensors.update(quantized))


def test_a_scale_of_outputs_multiplies(tiny, tmp_path):
    scale = {"blk.0.attn_output.scale": floats(torch.tensor([0.5]))}
    read = loaded(tmp_path, tiny, change=lambda tensors: tensors.update(scale))
    expected = tiny.blocks[0].attention.output.unpack()[1]
    assert torch.equal(read.blocks[0].attention.output.unpack()[1], expected / 2)


@pytest.mark.parametrize(("scale", "words"), [(0.0, "a positive scale, found 0"), (float("nan"), "finite values")])
def test_a_scale_that_is_none_is_named(tiny, tmp_path, scale, words):
    def change(tensors):
        type_id, shape, content = tensors["blk.2.ffn_up.weight"]
        scaled = content[:-32] + np.float32(scale).tobytes() + content[-28:]
        tensors["blk.2.ffn_up.weight"] = type_id, shape, scaled

    with pytest.raises(CheckpointError, match=f"blk.2.ffn_up.weight: expected {words}"):
        loaded(tmp_path, tiny, change=change)


def test_a_file_is_known_by_its_content_and_a_folder_by_its_file(tiny, tmp_path):
    path = as_gguf(tiny, tmp_path / "tiny", "bitnet-b1.58")
    assert bitnet_jit.load(path).config == tiny.config
    path.rename(tmp_path / "tiny.gguf")
    assert bitnet_jit.load(tmp_path).config == tiny.config
    assert bitnet_jit.load(str(tmp_path / "tiny.gguf")).config == tiny.config


def test_two_files_in_a_folder_are_named(tiny, tmp_path):
    for name in ("b.gguf", "a.gguf"):
        as_gguf(tiny, tmp_path / name, "bitnet-b1.58")
    with pytest.raises(CheckpointError, match=r"expected one GGUF file, found a\.gguf, b\.gguf: name one of them"):
        bitnet_jit.load(tmp_path)
    bitnet_jit.save(tiny, tmp_path)
    assert bitnet_jit.load(tmp_path).config == tiny.config


def test_a_broken_file_is_told_as_gguf(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="expected a whole GGUF file"):
        bitnet_jit.load(tmp_path / "model.gguf")


SPECIAL = st.sampled_from((0.0, -0.0, 0.5, -0.5, 65504.0, 6e-8, float("inf"), float("nan")))


@given(
    first=SPECIAL, others=st.lists(SPECIAL, min_size=3, max_size=3), same=st.booleans(), rows=st.sampled_from((1, 2))
)
def test_the_scale_of_blocks_is_the_coarsest(first, others, same, rows):
    halves = torch.tensor([first] * 4 if same else [first, *others], dtype=torch.float16)
    blocks = torch.zeros(4, 18, dtype=torch.uint8)
    blocks[:, 3:5] = halves.view(torch.uint8).view(4, 2)
    scale, expected = scale_of(blocks[:, 3:5], rows), coarsest_scale(halves.float().view(rows, -1))
    if bool(halves.isnan().any()):
        assert bool(scale.isnan().any()), "it is refused, whatever its shape"
    else:
        assert torch.equal(scale, expected)
