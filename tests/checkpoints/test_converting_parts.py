"""Gated DeltaNets, rotations, norms inside layers, poolings and sampling from format to format."""

import json

import embedding_models
import numpy as np
import pytest
import qwen35_models
import torch
from folded_models import keys_of, signs_of
from gguf_files import Q2_0, TQ2_0
from small_checkpoints import write

import bitnet_jit
from bitnet_jit import convert_checkpoint
from bitnet_jit.errors import InvalidInput

SIZES = {"hidden_size": 128, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
WIDE = {"hidden_size": 256, "intermediate_size": 256, "linear_value_head_dim": 128, "head_dim": 128}
GROUPS = {"q2_0": 64, "pq2_0": 128, "ptq1_0": 128}
TYPES = {"q2_0": (Q2_0, 64), "tq2_0": (TQ2_0, 256)}
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.25}
DRAWN = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05}
IDS = torch.randint(0, 256, (2, 33), generator=torch.Generator().manual_seed(0))


def assert_same(result, source, target):
    """Compare what was converted: every tensor, and the logits of a text."""
    assert result.verification.different == ()
    assert result.verification.largest_scale == 0
    one, other = bitnet_jit.load(source), bitnet_jit.load(target)
    assert one.config == other.config
    torch.testing.assert_close(other(IDS), one(IDS), rtol=1e-4, atol=1e-4 * float(one(IDS).std()))


@pytest.mark.parametrize("format", GROUPS)
def test_a_gated_delta_net_becomes_a_file(tmp_path, format):
    model = qwen35_models.random_model(group=GROUPS[format], **WIDE, tie_word_embeddings=format == "pq2_0")
    model.save_pretrained(tmp_path / "folder")
    result = convert_checkpoint(tmp_path / "folder", tmp_path / "a.gguf", format, verify=True)
    assert_same(result, tmp_path / "folder", tmp_path / "a.gguf")


def test_blocks_of_two_heads_with_scales_apart_are_named(tmp_path):
    qwen35_models.random_model(group=256, **WIDE).save_pretrained(tmp_path / "folder")
    with pytest.raises(InvalidInput, match="a scale per 256 inputs, blk.0.ssm_out.weight has one per 128"):
        convert_checkpoint(tmp_path / "folder", tmp_path / "a.gguf", "tq2_0")
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(("first", "second"), [("q2_0", "ptq1_0"), ("tq2_0", "q2_0"), ("tq2_0", "tq2_0")])
def test_files_of_a_gated_delta_net_become_others(tmp_path, first, second):
    """Blocks of 256 hold two heads, which lie side by side in a file alone."""
    type_id, _ = TYPES[first]
    model = qwen35_models.random_model(group=256, **WIDE)
    source = qwen35_models.as_gguf(model, tmp_path / "a.gguf", type_id, TYPES[first][1])
    result = convert_checkpoint(source, tmp_path / "b.gguf", second, verify=True)
    assert_same(result, source, tmp_path / "b.gguf")


@pytest.mark.parametrize("grouped", [True, False])
def test_a_rotated_file_becomes_another(tmp_path, grouped):
    heads = {} if grouped else {"linear_num_key_heads": 4}
    model = qwen35_models.random_model(group=64, **SIZES, **heads)
    widths = (128, 256)
    rotation = keys_of(
        qwen35_models.folded_names(model),
        inverse_weight_names=None,
        sign_widths=np.array(widths),
        sign_values=np.concatenate([signs_of(width) for width in widths]),
        gdn_v_grouped=grouped,
    )
    source = qwen35_models.as_gguf(model, tmp_path / "a.gguf", Q2_0, 64, grouped=grouped, **rotation)
    result = convert_checkpoint(source, tmp_path / "b.gguf", "q2_0", verify=True)
    assert_same(result, source, tmp_path / "b.gguf")


def test_blocks_that_attend_at_no_interval_are_named(tmp_path):
    kinds = ["full_attention", "full_attention", "linear_attention", "full_attention"]
    qwen35_models.random_model(group=64, layer_types=kinds, **SIZES).save_pretrained(tmp_path / "folder")
    with pytest.raises(InvalidInput, match=r"every so manyth block attends, got blocks \[0, 1, 3\]"):
        convert_checkpoint(tmp_path / "folder", tmp_path / "a.gguf", "q2_0")
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
@pytest.mark.parametrize("pooling", ["mean_tokens", "lasttoken", None])
def test_an_embedding_model_becomes_a_file(tmp_path, kind, pooling):
    scalar = {"query_pre_attn_scalar": 32} if kind == "gemma3" else {}
    model = embedding_models.random_model(kind, hidden_size=128, intermediate_size=256, **scalar)
    source = embedding_models.as_folder(model, tmp_path / "folder", pooling)
    result = convert_checkpoint(source, tmp_path / "a.gguf", "i2_s", verify=True)
    assert result.verification.largest_difference == 0
    assert_same(result, source, tmp_path / "a.gguf")
    one, other = bitnet_jit.load(source), bitnet_jit.load(tmp_path / "a.gguf")
    assert one.pooling == other.pooling
    assert torch.equal(*(decoder.encode(IDS.tolist(), "mean") for decoder in (one, other)))


def test_another_scale_of_queries_is_named(tmp_path):
    model = embedding_models.random_model("gemma3", hidden_size=128, intermediate_size=256, query_pre_attn_scalar=8)
    source = embedding_models.as_folder(model, tmp_path / "folder")
    with pytest.raises(InvalidInput, match="queries are scaled by the root of a head's width"):
        convert_checkpoint(source, tmp_path / "a.gguf", "i2_s")


@pytest.mark.parametrize("said", [DRAWN, GREEDY, {"temperature": 0.7}, {"repetition_penalty": 1.1}, {}])
def test_sampling_comes_along(tmp_path, said):
    source = write(tmp_path / "folder", hidden_size=128, intermediate_size=256)
    settings = said if said != GREEDY else {"do_sample": False, "repetition_penalty": 1.25}
    (source / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 3}))
    places = [source, tmp_path / "a.gguf", tmp_path / "b", tmp_path / "c.gguf"]
    for place, target, format in zip(places, places[1:], ("i2_s", "t5", "i2_s"), strict=False):
        convert_checkpoint(place, target, format)
    for decoder in map(bitnet_jit.load, places):
        given = vars(decoder.defaults) | {"source": ""}
        assert {name: value for name, value in given.items() if value not in (None, "")} == said
        assert decoder.config.eos_ids == (0, 3)
