"""BitNet embedding models as folders: through every pair of formats they stay what they are, and pool alike."""

import json
import math
import os
from dataclasses import replace
from itertools import product

import pytest
import torch
from embedding_models import as_folder, as_gguf, random_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.checkpoints.building import multiplied
from bitnet_jit.checkpoints.formats.gemma3 import gemma3_multipliers, in_files
from bitnet_jit.checkpoints.formats.hf_gemma3 import query_scalar
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.unmultiplied import norm_before, table_before
from bitnet_jit.checkpoints.verifying import verify_same
from bitnet_jit.errors import CheckpointError, InvalidInput

FOLDERS = ("autobitlinear", "bitlinear", "i2", "t5")
SMALL = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
GEMMA = {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 32}
KINDS = {"qwen3": SMALL, "gemma3": SMALL | GEMMA}
MODELS = {
    "qwen3": {"kind": "qwen3"},
    "qwen3, odd sizes": {"kind": "qwen3", "hidden_size": 68, "intermediate_size": 100, "num_key_value_heads": 1},
    "gemma3": {"kind": "gemma3"},
    "gemma3, no layer is local": {"kind": "gemma3", "layer_types": ["full_attention"] * 3, "hidden_size": 72},
    "gemma3, another scale of queries": {"kind": "gemma3", "query_pre_attn_scalar": 20, "hidden_size": 100},
}
IDS = [[1, 2, 3], list(range(40)), [255]]
TOLERANCE = {"bitlinear": 2e-7}  # a divisor need not have the scale as its inverse


@pytest.fixture(scope="module", params=[*product(KINDS, ("folder", "gguf"))], ids="-".join)
def made(request, tmp_path_factory):
    """Write a model of a kind, as a folder or a GGUF file, and convert it to all formats."""
    kind, source = request.param
    model, place = random_model(kind, **KINDS[kind]), tmp_path_factory.mktemp("made")
    write = as_gguf if source == "gguf" else as_folder
    folders = {"source": write(model, place / "model.gguf")}
    for format in FOLDERS:
        folders[format] = place / format
        result = convert_checkpoint(folders["source"], folders[format], format)
        assert (result.moved, result.floats, result.integers) == ({}, (), ())
    return folders


@pytest.mark.parametrize("format", FOLDERS)
def test_every_format_holds_the_model(made, format):
    verification = verify_same(made["source"], made[format])
    assert verification.different == ()
    assert verification.largest_scale <= TOLERANCE.get(format, 0.0)
    ours, theirs = bitnet_jit.load(made["source"]), bitnet_jit.load(made[format])
    assert (theirs.config, theirs.pooling) == (ours.config, ours.pooling)
    vectors, expected = (decoder.encode(IDS, "mean") for decoder in (theirs, ours))
    assert torch.equal(vectors, expected) or (format == "bitlinear" and (vectors - expected).abs().max() < 1e-2)


@pytest.mark.parametrize(("first", "second"), [*product(FOLDERS, FOLDERS)])
def test_every_pair_of_formats_gives_the_files_of_the_second(made, tmp_path, first, second):
    convert_checkpoint(made[first], tmp_path / "again", second)
    assert {path.name for path in (tmp_path / "again").rglob("*")} == {path.name for path in made[second].rglob("*")}
    assert (tmp_path / "again" / "config.json").read_bytes() == (made[second] / "config.json").read_bytes()
    again, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", made[second]))
    assert again.keys() == expected.keys()
    for name, tensor in again.items():
        assert tensor.dtype == expected[name].dtype
        if first == "bitlinear" and name.endswith("weight_scale"):
            torch.testing.assert_close(tensor, expected[name], rtol=2e-7, atol=0)
        else:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("format", FOLDERS)
def test_a_folder_has_the_config_the_floats_and_the_pooling(tmp_path, model, format):
    source = as_folder(random_model(**MODELS[model]), tmp_path / "model", "cls_token")
    result = convert_checkpoint(source, tmp_path / "made", format, verify=True)
    assert result.verification.different == ()
    assert result.verification.largest_difference <= (0.1 if format == "bitlinear" else 0)
    assert make_reader(tmp_path / "made").config == make_reader(source).config
    assert make_reader(tmp_path / "made").pooling() == "cls"
    there = load_file(tmp_path / "made" / "model.safetensors")
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("norm.weight"):
            more = 1.0 if "gemma3" in model and "_proj." not in name else 0.0  # as it is used
            assert torch.equal(there[name].float() + more, tensor.float() + more), name
    modules = json.loads((tmp_path / "made" / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[1] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert result.num_bytes >= (tmp_path / "made" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("model", MODELS)
def test_transformers_reads_the_config_as_it_was(tmp_path, model):
    theirs = random_model(**MODELS[model])
    convert_checkpoint(as_folder(theirs, tmp_path / "model", "mean_tokens"), tmp_path / "made", "autobitlinear")
    read = AutoConfig.from_pretrained(tmp_path / "made")
    same = ["hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"]
    if "sliding_attention" in getattr(theirs.config, "layer_types", ()) or theirs.config.model_type == "qwen3":
        same += ["rope_parameters"]
    if theirs.config.model_type == "gemma3_text":
        same += ["layer_types", "query_pre_attn_scalar", "hidden_activation"]
        assert read.sliding_window == make_reader(tmp_path / "made").config.context_length
    for name in same:
        assert getattr(read, name) == getattr(theirs.config, name), name


@pytest.mark.parametrize("format", FOLDERS)
@pytest.mark.parametrize("model", ["qwen3, odd sizes", "gemma3, no layer is local", "gemma3"])
def test_a_loaded_model_is_saved(tmp_path, model, format):
    changes = MODELS[model] | ({"query_pre_attn_scalar": 32} if MODELS[model]["kind"] == "gemma3" else {})
    decoder = bitnet_jit.load(as_folder(random_model(**changes), tmp_path / "model", "mean_tokens"))
    for _ in range(2):  # over itself the second time
        bitnet_jit.save(decoder, tmp_path / "made", format)
        again = bitnet_jit.load(tmp_path / "made")
        assert (again.config, again.pooling) == (decoder.config, "mean")
        one, other = decoder.state_dict(), again.state_dict()
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert tensor.dtype == other[name].dtype
            if format != "bitlinear":
                assert torch.equal(tensor, other[name]), name
        decoder = again


def test_a_model_in_bfloat16_is_saved_or_refused_by_the_name_of_a_norm(tmp_path):
    decoder = bitnet_jit.load(as_folder(random_model("qwen3"), tmp_path / "qwen3")).bfloat16()
    bitnet_jit.save(decoder, tmp_path / "made", "t5")
    assert torch.equal(bitnet_jit.load(tmp_path / "made").bfloat16().encode(IDS, "cls"), decoder.encode(IDS, "cls"))
    decoder = bitnet_jit.load(as_folder(random_model("gemma3"), tmp_path / "gemma3"))
    decoder.blocks[1].feed_forward.norm.weight.data[3] = 1e-9
    earlier = (tmp_path / "made" / "model.safetensors").read_bytes()
    words = r"layers.1.pre_feedforward_layernorm.weight: files hold such a norm less 1, .* moves its numbers by up to 1"
    with pytest.raises(InvalidInput, match=words):
        bitnet_jit.save(decoder, tmp_path / "made", "t5")
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == earlier


def test_a_norm_of_a_file_that_does_not_come_back_is_refused(tmp_path):
    model = random_model("gemma3", **KINDS["gemma3"])
    model.layers[1].self_attn.q_norm.weight.data[0] = -1 + 2.0**-24
    path = as_gguf(model, tmp_path / "model.gguf")
    convert_checkpoint(path, tmp_path / "exact", "i2")
    kept = torch.tensor([2.0**-24]).numpy().tobytes()
    content = path.read_bytes()
    assert content.count(kept) == 1
    path.write_bytes(content.replace(kept, torch.tensor([1e-9]).numpy().tobytes()))
    with pytest.raises(InvalidInput, match=r"layers.1.self_attn.q_norm.weight: files hold such a norm less 1"):
        convert_checkpoint(path, tmp_path / "made", "i2")
    assert not (tmp_path / "made").exists()


def test_older_files_of_pooling_are_replaced_or_stay(tmp_path, monkeypatch):
    models = {mode: as_folder(random_model(), tmp_path / mode, mode) for mode in ("cls_token", "lasttoken")}
    for mode, folder in models.items():
        convert_checkpoint(folder, tmp_path / "made", "i2")
        assert bitnet_jit.load(tmp_path / "made").pooling == {"cls_token": "cls", "lasttoken": "last"}[mode]
    before = {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()}

    def refuse(*_):
        raise InvalidInput("refused")

    monkeypatch.setattr("bitnet_jit.checkpoints.publish.same_content", lambda *_: True)
    monkeypatch.setattr("bitnet_jit.checkpoints.saving.check_read_back", refuse)
    for place in (tmp_path / "made", tmp_path / "new"):
        with pytest.raises(InvalidInput, match="refused"):
            convert_checkpoint(models["cls_token"], place, "t5")
    assert before == {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_no_folder_of_pooling(tmp_path, monkeypatch):
    folder = as_folder(random_model(), tmp_path / "model", "cls_token")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "README.md").write_text("ours")

    def full(source, target):
        if str(target).endswith("made/config.json"):
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr("bitnet_jit.checkpoints.publish.os.replace", full)
    with pytest.raises(bitnet_jit.errors.WriteError, match="No space left"):
        convert_checkpoint(folder, tmp_path / "made", "i2")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["README.md"]


def test_what_other_formats_do_not_hold_is_refused(tmp_path):
    folder = as_folder(random_model(), tmp_path / "model")
    with pytest.raises(InvalidInput, match="mlx-lm has no models with norms inside their layers; use autobitlinear"):
        convert_checkpoint(folder, tmp_path / "made", "mlx", lossy=True)
    assert not (tmp_path / "made").exists()


def test_a_missing_norm_of_a_written_folder_is_told(tmp_path):
    """So that the tests could fail: the norms inside layers are read from what was written."""
    convert_checkpoint(as_folder(random_model("gemma3"), tmp_path / "model"), tmp_path / "made", "autobitlinear")
    path = tmp_path / "made" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"up_proj.norm.weight: expected .*, found no such tensor"):
        bitnet_jit.load(tmp_path / "made")


@given(head_dim=st.integers(1, 512), scalar=st.one_of(st.integers(1, 2048), st.floats(0.01, 4096)))
def test_scales_of_queries_come_back(head_dim, scalar):
    multiplier = math.sqrt(head_dim / scalar)
    assert math.sqrt(head_dim / query_scalar(head_dim, multiplier)) == multiplier


@given(
    hidden=st.sampled_from([1, 3, 17, 64, 640, 1152]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
def test_what_load_multiplies_is_divided_again(hidden, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    multiplier = gemma3_multipliers(hidden, 1, 1).embedding
    table = torch.randn(5, hidden, generator=generator).to(dtype)
    wanted = multiplied(table, multiplier)
    before = table_before(wanted, multiplier)
    assert torch.equal(multiplied(before, multiplier).float(), wanted.float())
    norm = 1 + torch.randn(hidden, generator=generator).to(dtype).float()
    before = norm_before(norm * (1 / multiplier), 1 / multiplier)
    assert torch.equal(before * (1 / multiplier), norm * (1 / multiplier))
    assert torch.equal((before - 1) + 1, before)


def test_what_no_product_gives_has_nothing_before_it():
    below = torch.tensor([[3e-45]])
    assert table_before(below, 0.3) is None or torch.equal(table_before(below, 0.3) * 0.3, below)
    assert norm_before(torch.tensor([1.4e-45]), 3.0) is None


def test_architectures_in_files_have_their_constants(tmp_path):
    config = bitnet_jit.load(as_folder(random_model("gemma3"), tmp_path / "model")).config
    assert in_files(config).multipliers == gemma3_multipliers(64, 32, 32)
    assert in_files(in_files(config)) == in_files(config)
    assert in_files(replace(config, branch_norms=False)).multipliers == config.multipliers
