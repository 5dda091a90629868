"""GGUF files of folded weights: their logits are those of the unfolded model, and no key is taken for another."""

import re

import numpy as np
import pytest
import torch
from folded_models import BLOCK, PREFIX, SIZES, folded_file, folded_names, folded_tensors, keys_of, write_unfolded
from gguf_files import I2_S, write_gguf
from gguf_models import floats, metadata_of, tensors_of
from safetensors import safe_open
from safetensors.torch import save_file

import bitnet_jit
from bitnet_jit.checkpoints.converting import convert_checkpoint
from bitnet_jit.checkpoints.formats.gguf.model import GgufModel
from bitnet_jit.checkpoints.inspection import inspect_checkpoint
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.nn.rotation import Rotation, rotation_of
from bitnet_jit.tuning.problems import problems_of_model

IDS = torch.tensor([list(b"In the beginning God created")])


@pytest.fixture
def origin(write_checkpoint):
    """Write a small random qwen3 model; return its folder."""
    return write_checkpoint(model_type="qwen3", **SIZES)


@pytest.fixture
def write_folded(origin, tmp_path):
    """Return a function that writes the model as a folded GGUF file, with other keys or tensors."""

    def write(change=lambda tensors: None, **changes):
        metadata, tensors = folded_file(bitnet_jit.load(origin), **changes)
        change(tensors)
        return write_gguf(tmp_path / "folded.gguf", metadata, tensors)

    return write


def test_logits_are_those_of_the_unfolded_model(origin, write_folded, make_twin, tmp_path):
    path = write_folded()
    read = bitnet_jit.load(path)
    with torch.no_grad():
        expected = make_twin(write_unfolded(bitnet_jit.load(origin), origin, tmp_path / "unfolded"))(IDS).logits
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(read(IDS), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    del read.blocks[1].feed_forward.down._modules["rotation"]
    assert float((read(IDS) - expected).abs().max()) > 0.1  # what a reader without rotations would get


@pytest.mark.parametrize("head", ["checkpoint", "int8", "float32"])
def test_every_kind_of_head_stands_for_the_same_numbers(write_folded, head):
    path = write_folded()
    expected, logits = bitnet_jit.load(path)(IDS), bitnet_jit.load(path, head=head)(IDS)
    assert float((logits - expected).abs().max() / expected.std()) < (0.05 if head == "int8" else 1e-4)


def test_a_rotated_head_is_packed_in_no_other_way(write_folded):
    with pytest.raises(InvalidInput, match="head: 't5' holds no rotated weights"):
        bitnet_jit.load(write_folded(), head="t5")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_gives_the_same_bits_as_the_whole(write_folded, dtype):
    decoder = bitnet_jit.load(write_folded(), dtype=dtype)
    whole, cache = decoder(IDS), decoder.new_cache(1)
    parts = [decoder(part, cache) for part in IDS.split((5, 1, 1, IDS.shape[1] - 7), 1)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert decoder.generate(IDS[0].tolist(), 4)[-4].item() == int(whole[0, -1].argmax())
    assert any(problem.block for problem in problems_of_model(decoder, (1,)))


def test_layers_of_one_width_share_a_rotation(write_folded):
    decoder = bitnet_jit.load(write_folded())
    layers = [layer for block in decoder.blocks for layer in (block.attention.qkv, block.feed_forward.gate_up)]
    assert len({id(rotation_of(layer)) for layer in (*layers, decoder.embedding, decoder.head)}) == 1
    assert rotation_of(decoder.blocks[0].feed_forward.down).in_features == SIZES["intermediate_size"]


def test_the_identity_has_signs_of_one(write_folded):
    decoder = bitnet_jit.load(write_folded(sign_mode="identity", sign_widths=None, sign_values=None))
    assert bool((rotation_of(decoder.head).signs == 1).all())


def test_a_tied_embedding_is_the_head_in_version_2(write_checkpoint, tmp_path):
    origin = bitnet_jit.load(write_checkpoint(model_type="qwen3", tie_word_embeddings=True, **SIZES))
    metadata, tensors = folded_file(origin, version=2, tied_output=True)
    read = bitnet_jit.load(write_gguf(tmp_path / "tied.gguf", metadata, tensors))
    hidden = torch.randn(3, 128)
    rows = read.embedding.look_up(torch.arange(256), torch.float32)
    torch.testing.assert_close(read.logits(hidden), hidden @ rows.T, rtol=1e-4, atol=1e-4)
    metadata[f"{PREFIX}version"] = 1
    metadata.pop(f"{PREFIX}tied_output")
    with pytest.raises(CheckpointError, match="version: expected 2, as the folded token_embd.weight is the head"):
        bitnet_jit.load(write_gguf(tmp_path / "tied.gguf", metadata, tensors))


BAD_KEYS = [
    ({"version": 3}, "version: expected a whole number from 1 to 2, found 3"),
    ({"version": None}, "version: expected a whole number"),
    ({"scale": 1.0}, "scale: expected no such key in version 1"),
    ({"tied_output": True}, "tied_output: expected no such key in version 1"),
    ({"version": 2}, "tied_output: expected true or false, found no such field"),
    ({"version": 2, "tied_output": False}, "tied_output: expected true, no output.weight"),
    ({"version": 2, "tied_output": True}, "tied_output: expected true, no output.weight"),
    ({"transform": "fast-walsh"}, "transform: expected 'normalized-sylvester-walsh-hadamard', found 'fast-walsh'"),
    ({"axis": "output"}, "axis: expected 'input-last-dimension', found 'output'"),
    ({"block_size": 96}, "block_size: expected a power of two, found 96"),
    ({"block_size": 0}, "block_size: expected a whole number"),
    ({"block_size": 256}, "sign_widths: expected numbers of inputs in whole blocks of 256"),
    ({"sign_mode": "random"}, "sign_mode: expected 'identity' or 'explicit', found 'random'"),
    ({"sign_mode": "identity"}, "sign_widths: expected no such key where sign_mode is 'identity'"),
    ({"weight_names": []}, "weight_names: expected names of weights, each once"),
    ({"weight_names": ["output.weight"] * 2}, "weight_names: expected names of weights, each once"),
    ({"weight_names": 3}, "weight_names: expected an array of strings"),
    ({"weight_names": ["blk.9.attn_q.weight"]}, "weight_names: expected weights of the file that can be folded"),
    ({"weight_names": ["blk.0.attn_norm.weight"]}, "folded, found blk.0.attn_norm.weight"),
    ({"weight_names": ["token_embd.weight"]}, "folded, found token_embd.weight"),
    ({"inverse_weight_names": ["output.weight"]}, "inverse_weight_names: expected token_embd.weight alone"),
    ({"sign_widths": None}, "sign_widths: expected an array of whole numbers, found no such field"),
    ({"sign_widths": np.array([128, 128, 384])}, "sign_widths: expected numbers of inputs .* each once"),
    ({"sign_values": np.ones(767, np.int32)}, "sign_values: expected 768 signs"),
    ({"sign_values": np.zeros(768, np.int32)}, "sign_values: expected numbers that are 1 or -1"),
    ({"gdn_v_grouped": True}, "gdn_v_grouped: expected false in qwen3"),
    ({"gdn_v_grouped": 1}, "gdn_v_grouped: expected true or false"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_KEYS)
def test_a_key_that_is_wrong_is_named(write_folded, changes, words):
    with pytest.raises(CheckpointError, match=f"folded.gguf: {re.escape(PREFIX)}.*{words}"):
        bitnet_jit.load(write_folded(**changes))


def test_a_forgotten_vector_of_signs_is_named(write_folded):
    widths = np.array([128, 256])
    with pytest.raises(CheckpointError, match="sign_widths: expected 384, the inputs of blk.0.ffn_down.weight, found"):
        bitnet_jit.load(write_folded(sign_widths=widths, sign_values=np.ones(384, np.int32)))


def test_layers_that_share_an_input_are_folded_together(origin, tmp_path):
    decoder = bitnet_jit.load(origin)
    tensors = folded_tensors(decoder)
    names = [name for name in folded_names(tensors) if name != "blk.1.attn_k.weight"]
    path = write_gguf(tmp_path / "a.gguf", metadata_of(decoder, "qwen3") | keys_of(names), tensors)
    with pytest.raises(CheckpointError, match="attention.k: expected its input rotated as that of .*attention.q"):
        bitnet_jit.load(path)


def test_a_folded_table_of_floats_is_refused(write_folded):
    path = write_folded(lambda tensors: tensors.update({"output.weight": floats(torch.ones(256, 128))}))
    with pytest.raises(CheckpointError, match="output.weight: expected ternary codes, as it is folded, found floats"):
        bitnet_jit.load(path)


def test_an_architecture_without_rotations_is_named(tiny, tmp_path):
    metadata = metadata_of(tiny, "bitnet-b1.58") | keys_of(["blk.0.attn_q.weight"], inverse=())
    with pytest.raises(CheckpointError, match="general.architecture: expected 'llama' or"):
        bitnet_jit.load(write_gguf(tmp_path / "a.gguf", metadata, tensors_of(tiny, "bitnet-b1.58")))


def test_gguf_keeps_what_was_folded(write_folded, tmp_path):
    path = write_folded()
    result = convert_checkpoint(path, tmp_path / "again.gguf", "ptq1_0", verify=True)
    assert (result.verification.different, result.verification.largest_difference) == ((), 0.0)
    first, again = (GgufModel(file).keys.values for file in (path, tmp_path / "again.gguf"))
    for key in (key for key in first if key.startswith(PREFIX)):
        both = [sorted(given) if key.endswith("names") else given for given in (first[key], again[key])]
        assert np.array_equal(*both) or key.endswith(("widths", "values"))
    assert f"inputs rotated in blocks of {BLOCK}" in result.source


def test_mlx_refuses_rotated_weights(write_folded, tmp_path):
    with pytest.raises(InvalidInput, match="format: mlx-lm rotates no inputs"):
        convert_checkpoint(write_folded(), tmp_path / "mlx", "mlx")


def test_inspecting_tells_of_rotations(write_folded):
    result = inspect_checkpoint(write_folded())
    assert result.problem == ""
    assert {row.block for row in result.layers} == {BLOCK}
    assert f"rotated in blocks of {BLOCK}" in result.description


@pytest.fixture
def folded_llama(write_checkpoint, tmp_path):
    """Write a llama with a scale per tensor and int8 activations, whose layers are folded; return the file."""
    decoder = bitnet_jit.load(write_checkpoint(model_type="llama", **SIZES))
    tensors = tensors_of(decoder, "llama", I2_S)
    metadata = metadata_of(decoder, "llama") | keys_of(folded_names(tensors), inverse=())
    return write_gguf(tmp_path / "llama.gguf", metadata, tensors)


@pytest.mark.parametrize("format", ["i2", "t5"])
def test_our_formats_keep_rotations(folded_llama, tmp_path, format):
    decoder = bitnet_jit.load(folded_llama)
    assert decoder.blocks[0].attention.qkv.activation == "a8"
    bitnet_jit.save(decoder, tmp_path / "saved", format)
    assert torch.equal(bitnet_jit.load(tmp_path / "saved")(IDS), decoder(IDS))
    again = convert_checkpoint(tmp_path / "saved", tmp_path / "again.gguf", "i2_s", verify=True).verification
    assert (again.different, again.largest_difference) == ((), 0.0)


@pytest.mark.parametrize("format", ["i2", "t5"])
def test_our_formats_are_given_the_rotations_of_a_file(folded_llama, tmp_path, format):
    result = convert_checkpoint(folded_llama, tmp_path / "made", format, verify=True).verification
    assert (result.different, result.largest_difference) == ((), 0.0)


@pytest.mark.parametrize("format", ["autobitlinear", "bitlinear"])
def test_the_formats_of_transformers_refuse_rotations(folded_llama, tmp_path, format):
    with pytest.raises(InvalidInput, match=f"q_proj: format '{format}' holds no rotated weights"):
        convert_checkpoint(folded_llama, tmp_path / "saved", format)
    with pytest.raises(InvalidInput, match=f"q_proj: format '{format}' holds no rotated weights"):
        bitnet_jit.save(bitnet_jit.load(folded_llama), tmp_path / "saved", format)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        (torch.ones(2, 32), r"expected signs \(K / block, block\) of K=128, found \(2, 32\)"),
        (torch.ones(128), r"expected signs \(K / block, block\) of K=128, found \(128,\)"),
        (torch.zeros(2, 64), "expected signs of a rotation, found signs: expected floats that are 1 or -1, got 0.0"),
        (torch.ones(4, 32), "expected its input rotated as that of"),
        (torch.ones(2, 64, dtype=torch.float16), "rotation: expected"),
    ],
)
def test_a_rotation_of_ours_that_is_damaged_is_named(folded_llama, tmp_path, signs, words):
    bitnet_jit.save(bitnet_jit.load(folded_llama), tmp_path / "saved", "i2")
    file = tmp_path / "saved" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors | {"model.layers.0.self_attn.k_proj.rotation": signs}, file, metadata)
    with pytest.raises(CheckpointError, match=words):
        bitnet_jit.load(tmp_path / "saved")


def test_a_rotation_is_kept_in_a_model_of_torch(write_folded):
    """A `state_dict` of a decoder holds its rotations, too, and makes the same logits."""
    path = write_folded()
    decoder, other = bitnet_jit.load(path), bitnet_jit.load(path)
    for block in other.blocks:
        block.attention.output.put_rotation(Rotation(torch.ones(256), BLOCK))
    assert not torch.equal(other(IDS), decoder(IDS))
    other.load_state_dict(decoder.state_dict())
    assert torch.equal(other(IDS), decoder(IDS))
