"""The output head as it is stored: of the checkpoint, of other floats, or of int8; also as the embedding."""

import pytest
import torch

import bitnet_jit
from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models import head as heads

PROMPT = list(b"And it came to pass ")
WIDER = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def size_of(decoder):
    """Bytes of embedding and head."""
    tensors = (decoder.embedding, decoder.head, decoder.head_scale)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request, write_checkpoint):
    """A small checkpoint, whose embedding is its head, or is not."""
    return write_checkpoint(tie_word_embeddings=request.param)


def test_a_head_of_the_checkpoint_is_kept_as_it_is(folder):
    decoder, default = bitnet_jit.load(folder, head="checkpoint"), bitnet_jit.load(folder)
    assert decoder.head_scale is None
    assert decoder.embedding.dtype == torch.bfloat16
    assert torch.equal(decoder([PROMPT]), default([PROMPT]))


@pytest.mark.parametrize("word", WIDER)
def test_a_head_of_other_floats_holds_the_same_numbers(folder, word):
    decoder, default = bitnet_jit.load(folder, head=word), bitnet_jit.load(folder)
    weight = decoder.embedding if decoder.head is None else decoder.head
    expected = default.embedding if default.head is None else default.head
    assert weight.dtype == WIDER[word]
    assert torch.equal(weight.float(), expected.float())
    torch.testing.assert_close(decoder([PROMPT]), default([PROMPT]), rtol=1e-5, atol=1e-5)


def test_a_head_of_int8_is_that_of_the_reference(folder):
    decoder, default = bitnet_jit.load(folder, head="int8"), bitnet_jit.load(folder)
    tied = default.head is None
    codes, scale = reference.quantize_head((default.embedding if tied else default.head).float().numpy())
    assert torch.equal(decoder.embedding if tied else decoder.head, torch.from_numpy(codes))
    assert torch.equal(decoder.head_scale, torch.from_numpy(scale))
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    expected = reference.head_logits(hidden.numpy(), codes, scale)
    assert torch.equal(decoder.logits(hidden), torch.from_numpy(expected))


def test_logits_of_an_int8_head_are_near_those_of_floats(folder):
    hidden = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    logits, expected = (bitnet_jit.load(folder, head=word).logits(hidden) for word in ("int8", "checkpoint"))
    assert (logits - expected).norm() < 0.01 * expected.norm()
    assert not torch.equal(logits, expected)


def test_an_int8_head_leaves_no_copy_in_floats(folder):
    quantized, default = bitnet_jit.load(folder, head="int8"), bitnet_jit.load(folder)
    vocab, hidden = default.embedding.shape
    saved = vocab * hidden - 4 * vocab  # one byte per weight, less a scale per row
    assert size_of(quantized) == size_of(default) - saved
    assert (quantized.embedding.dtype == torch.int8) == (default.head is None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedded_model_writes_sense_with_an_int8_head(dtype):
    decoder = bitnet_jit.load(dtype=dtype, head="int8")
    assert decoder.head is None
    assert decoder.hidden(torch.tensor([PROMPT]), decoder.new_cache()).dtype == dtype
    text = bytes(decoder.generate(PROMPT, max_new_tokens=5).tolist()).decode()
    assert text == "And it came to pass after"


def test_losses_of_an_int8_head_are_those_of_floats(tiny, kjv):
    """A tied head of int8 rounds embeddings, too."""
    ids = kjv[:4, :64]
    quantized = bitnet_jit.load(head="int8")
    losses = [
        torch.nn.functional.cross_entropy(decoder(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        for decoder in (tiny, quantized)
    ]
    assert abs(losses[0] - losses[1]) < 0.01 * losses[0]


def test_look_ups_of_int8_are_codes_times_scales():
    embedding = torch.tensor([[127, -3], [0, 5]], dtype=torch.int8)
    scale = torch.tensor([0.5, 2.0])
    ids = torch.tensor([[1, 0]])
    expected = torch.tensor([[[0.0, 10.0], [63.5, -1.5]]])
    table = heads.DenseTable(embedding, scale)
    assert torch.equal(table.look_up(ids, torch.float32), expected)
    assert table.look_up(ids, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("word", ["int4", "", "INT8", None, 8])
def test_other_words_are_refused(word):
    with pytest.raises(InvalidInput, match="head: expected one of checkpoint, int8, bfloat16, float32, i2, t5, got"):
        bitnet_jit.load(head=word)


def test_too_many_inputs_for_int8_are_refused_in_words():
    with pytest.raises(InvalidInput, match="head: int8 takes at most 65536 inputs, this head has 65537"):
        heads.stored_head(torch.zeros(1, 2**16 + 1), "int8")


def test_an_int8_head_is_not_saved(folder, tmp_path):
    with pytest.raises(InvalidInput, match="model: its head is int8.*head='checkpoint'"):
        bitnet_jit.save(bitnet_jit.load(folder, head="int8"), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_head_of_other_floats_is_saved(folder, tmp_path):
    decoder = bitnet_jit.load(folder, head="float32")
    bitnet_jit.save(decoder, tmp_path / "saved", "i2")
    again = bitnet_jit.load(tmp_path / "saved")
    assert torch.equal(again([PROMPT]), decoder([PROMPT]))
