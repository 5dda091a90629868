"""A decoder that is converted: `.to(dtype)` and methods like it change the dtype of activations, or say what to do."""

import copy

import pytest
import torch

import bitnet_jit
from bitnet_jit.errors import InvalidInput

PROMPT = list(b"And it came to pass ")
HEADS = ("checkpoint", "int8")
TO_BFLOAT16 = {
    "bfloat16": lambda decoder: decoder.bfloat16(),
    "to dtype": lambda decoder: decoder.to(torch.bfloat16),
    "to both": lambda decoder: decoder.to("cpu", torch.bfloat16),
    "like": lambda decoder: decoder.to(torch.zeros(1, dtype=torch.bfloat16)),
}
REFUSED = {
    "half": lambda decoder: decoder.half(),
    "to half": lambda decoder: decoder.to(torch.float16),
    "double": lambda decoder: decoder.double(),
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("way", TO_BFLOAT16)
def test_activations_get_the_dtype(write_checkpoint, way, head, tied):
    folder = write_checkpoint(tie_word_embeddings=tied)  # its floats are bfloat16 already
    decoder, expected = bitnet_jit.load(folder, head=head), bitnet_jit.load(folder, head=head, dtype=torch.bfloat16)
    plain = decoder.generate(PROMPT, max_new_tokens=6)  # leaves pages of float32
    assert TO_BFLOAT16[way](decoder) is decoder
    assert decoder.dtype == torch.bfloat16
    assert decoder.hidden(torch.tensor([PROMPT]), decoder.new_cache()).dtype == torch.bfloat16
    assert torch.equal(decoder([PROMPT]), expected([PROMPT]))
    assert torch.equal(decoder.generate(PROMPT, max_new_tokens=6), expected.generate(PROMPT, max_new_tokens=6))
    decoder.float()
    assert decoder.dtype == torch.float32
    assert torch.equal(decoder.generate(PROMPT, max_new_tokens=6), plain)


def test_scales_of_an_int8_head_stay_as_they_are():
    decoder = bitnet_jit.load(head="int8")
    codes, scale = decoder.embedding.clone(), decoder.head_scale.clone()
    decoder.bfloat16()
    assert decoder.norm.weight.dtype == torch.bfloat16
    for tensor, before in ((decoder.embedding, codes), (decoder.head_scale, scale)):
        assert tensor.dtype == before.dtype
        assert torch.equal(tensor, before)
    assert bytes(decoder.generate(PROMPT, max_new_tokens=5).tolist()) == b"And it came to pass after"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("way", REFUSED)
def test_other_dtypes_are_refused_before_anything_changes(way, head):
    decoder = bitnet_jit.load(head=head)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    with pytest.raises(InvalidInput, match=r"dtype: expected torch.float32 or torch.bfloat16, got .*; use .bfloat16"):
        REFUSED[way](decoder)
    assert decoder.dtype == torch.float32
    after = decoder.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )


def test_a_move_changes_no_dtype():
    decoder = bitnet_jit.load(head="int8", dtype=torch.bfloat16)
    expected = copy.deepcopy(decoder)([PROMPT])
    assert decoder.to("cpu").dtype == torch.bfloat16
    assert torch.equal(decoder([PROMPT]), expected)
    assert decoder.to("meta").device.type == "meta"
