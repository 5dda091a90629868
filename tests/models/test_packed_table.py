"""Packed heads: the numbers of the floats that they stand for, in logits, look-ups and texts; others are refused."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ternary_heads import GROUP, make_head_ternary, ternary

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.head import PACKED, stored_head
from bitnet_jit.models.packed_table import PackedTable

PROMPTS = [[5, 3, 130, 7, 7, 1], [9], [2, 3]]
CASES = [("i2", "tensor"), ("i2", "row"), ("i2", "group"), ("t5", "tensor"), ("t5", "row")]
SHAPES = {  # of hidden states, heads, and what a scale of the file is of
    "one group": dict(vocab_size=256),
    "ragged": dict(vocab_size=131, hidden_size=168, num_attention_heads=6, num_key_value_heads=3),
    "groups": dict(vocab_size=192, hidden_size=256),
}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def make_folder(request, write_checkpoint):
    """A function that writes a checkpoint with a ternary head, whose embedding is its head, or is not."""

    def make(scale="row", shape="ragged", name="model"):
        folder = write_checkpoint(tie_word_embeddings=request.param, name=name, **SHAPES[shape])
        return make_head_ternary(folder, scale)

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("format", "scale"), CASES)
def test_a_packed_head_is_that_of_floats(make_folder, format, scale, shape):
    folder = make_folder(scale, shape)
    decoder, floats = bitnet_jit.load(folder, head=format), bitnet_jit.load(folder, head="float32")
    table, tied = decoder.tables[1], floats.head is None
    assert isinstance(table, PackedTable)
    assert (decoder.head is None, decoder.embedding is table) == (tied, tied)
    assert table.format == format
    assert torch.equal(table.dequantize(), floats.embedding if tied else floats.head)
    ids = torch.arange(decoder.config.vocab_size).view(1, -1)
    for dtype in (torch.float32, torch.bfloat16):
        rows, expected = (each.tables[0].look_up(ids, dtype) for each in (decoder, floats))
        assert torch.equal(rows, expected)
    hidden = torch.randn(7, decoder.config.hidden_size, generator=torch.Generator().manual_seed(1))
    check_logits(decoder.logits(hidden), floats.logits(hidden), hidden, table)
    assert torch.equal(decoder.generate(PROMPTS[0], 9), floats.generate(PROMPTS[0], 9))


def check_logits(logits, expected, hidden, table):
    """Compare with a bound on what the orders of float32 sums differ by."""
    assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
    bound = hidden.double().abs() @ table.dequantize().double().abs().T * hidden.shape[-1] * 2**-23
    assert bool(((logits.double() - expected.double()).abs() <= bound).all())


@settings(max_examples=30)
@given(
    rows=st.sampled_from([1, 3, 17, 64, 131]),
    inputs=st.sampled_from([1, 3, 17, 33, 128, 129, 256, 389]),
    case=st.sampled_from(CASES),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    count=st.sampled_from([1, 3, 17]),
    seed=st.integers(0, 99),
)
def test_tables_of_any_shape(rows, inputs, case, dtype, count, seed):
    format, scale = case
    weight = ternary(rows, inputs, scale, dtype, seed)
    table, none = stored_head(weight, format)
    assert none is None
    assert torch.equal(table.dequantize(), weight.float())
    hidden = torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))
    logits = table.logits(hidden)
    check_logits(logits, hidden.double() @ weight.double().T, hidden, table)
    for row in range(count):
        assert torch.equal(table.logits(hidden[row : row + 1])[0], logits[row])
    ids = torch.tensor([rows - 1, -1, rows, 0])
    looked_up = table.look_up(ids, torch.float32)
    assert torch.equal(looked_up[[0, 3]], weight[[rows - 1, 0]].float())
    assert bool(looked_up[1:3].isnan().all())


def test_logits_of_bfloat16_are_not_rounded_to_it():
    weight = ternary(131, 256, "group")
    hidden = torch.randn(3, 256, generator=torch.Generator().manual_seed(2)).bfloat16()
    table, _ = stored_head(weight, "i2")
    assert torch.equal(table.logits(hidden), table.logits(hidden.float()))
    assert not torch.equal(table.logits(hidden), table.logits(hidden).bfloat16().float())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("format", "scale"), CASES)
def test_a_row_that_is_not_finite_leaves_its_neighbours(format, scale, bad):
    table, _ = stored_head(ternary(131, 256, scale), format)
    hidden = torch.randn(5, 256, generator=torch.Generator().manual_seed(3))
    expected = table.logits(hidden)
    hidden[2, 77] = bad
    logits = table.logits(hidden)
    assert not bool(logits[2].isfinite().all())
    assert torch.equal(logits[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


@pytest.mark.parametrize(
    ("scale", "inputs", "kind"), [("tensor", 256, "tensor"), ("row", 256, "row"), ("group", 256, "group")]
)
def test_scales_are_as_few_as_may_be(scale, inputs, kind):
    table, _ = stored_head(ternary(9, inputs, scale), "i2")
    assert (table.scale, table.group_size) == (kind, GROUP if kind == "group" else 0)


def test_a_head_of_zeros_is_packed():
    for format in PACKED:
        table, _ = stored_head(torch.zeros(5, 300), format)
        assert torch.equal(table.logits(torch.ones(2, 300)), torch.zeros(2, 5))


@pytest.mark.parametrize("format", PACKED)
def test_a_packed_head_leaves_no_copy_in_floats(make_folder, format):
    folder = make_folder(shape="groups")
    decoder, floats = (bitnet_jit.load(folder, head=word) for word in (format, "float32"))
    vocab, hidden = SHAPES["groups"]["vocab_size"], SHAPES["groups"]["hidden_size"]
    bytes_of = [sum(p.nbytes for p in each.parameters()) for each in (decoder, floats)]
    assert bytes_of[1] - bytes_of[0] >= vocab * (4 * hidden - hidden // 4 - 4)


@pytest.mark.parametrize("head", PACKED)
def test_a_head_that_is_not_ternary_is_refused(write_checkpoint, head):
    words = f"head: '{head}' stores .* row 0 has the magnitudes .* inputs 0 to 63; use 'checkpoint' or 'int8'$"
    for tied in (True, False):
        folder = write_checkpoint(tie_word_embeddings=tied, name=f"model {tied}")
        with pytest.raises(InvalidInput, match=words):
            bitnet_jit.load(folder, head=head)


def test_the_first_row_and_group_that_are_not_ternary_are_named():
    weight = ternary(5000, 300, "tensor", torch.float32)  # several pieces
    weight[4321, 128:256] = torch.tensor([0.5, -0.25] * 64)
    weight[4322, 0] = 7
    words = "head: 'i2' .* row 4321 has the magnitudes 0.5 and 0.25 among its inputs 128 to 255; use"
    with pytest.raises(InvalidInput, match=words):
        stored_head(weight, "i2")
    words = "head: 't5' .* row 4321 has the magnitudes .* among its inputs 0 to 299; .* or 'i2' where each 128 inputs"
    with pytest.raises(InvalidInput, match=words):
        stored_head(weight, "t5")
    weight[4, 256:] = torch.tensor([torch.inf, 0] * 22)
    with pytest.raises(InvalidInput, match="row 4 has the magnitude inf among its inputs 256 to 299"):
        stored_head(weight, "i2")
    weight[4, 299] = torch.nan
    with pytest.raises(InvalidInput, match="row 4 has the magnitudes nan and .* inputs 256 to 299"):
        stored_head(weight, "i2")


def test_scales_of_groups_are_refused_by_t5_in_words():
    with pytest.raises(InvalidInput, match="head: 't5' .* use 'checkpoint' or 'int8', or 'i2' where each 128 inputs"):
        stored_head(ternary(9, 256, "group"), "t5")


def test_a_packed_head_is_not_saved(make_folder, tmp_path):
    decoder = bitnet_jit.load(make_folder(), head="t5")
    with pytest.raises(InvalidInput, match="model: its head is t5, which no format holds.*head='checkpoint'"):
        bitnet_jit.save(decoder, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("format", PACKED)
def test_copies_pickles_and_state_dicts_write_the_same_text(make_folder, format):
    folder = make_folder()
    decoder = bitnet_jit.load(folder, head=format)
    expected = decoder.generate(PROMPTS, 6)
    other = bitnet_jit.load(make_head_ternary(folder, "tensor"), head=format)
    fresh = copy.deepcopy(decoder)
    for table in {id(table): table for table in fresh.tables if isinstance(table, PackedTable)}.values():
        table.w_packed.data.zero_()
    fresh.load_state_dict(decoder.state_dict())
    for twin in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder)), fresh):
        assert all(map(torch.equal, twin.generate(PROMPTS, 6), expected))
        assert torch.equal(twin([PROMPTS[0]]), decoder([PROMPTS[0]]))
    assert not torch.equal(other([PROMPTS[0]]), decoder([PROMPTS[0]]))
    assert decoder.to("meta").device.type == "meta"


@pytest.mark.parametrize("format", PACKED)
def test_conversions_leave_codes_and_scales(make_folder, format):
    folder = make_folder()
    decoder, expected = bitnet_jit.load(folder, head=format), bitnet_jit.load(folder, head=format, dtype=torch.bfloat16)
    plain, before = decoder.generate(PROMPTS[0], 6), decoder.tables[1].w_scale.clone()
    assert decoder.bfloat16().tables[1].w_scale.dtype == torch.float32
    assert torch.equal(decoder.tables[1].w_scale, before)
    assert torch.equal(decoder([PROMPTS[0]]), expected([PROMPTS[0]]))
    assert torch.equal(decoder.generate(PROMPTS[0], 6), expected.generate(PROMPTS[0], 6))
    assert torch.equal(decoder.float().generate(PROMPTS[0], 6), plain)
    with pytest.raises(InvalidInput, match=r"dtype: expected torch.float32 or torch.bfloat16, got torch.float16"):
        decoder.half()


@pytest.mark.parametrize("format", PACKED)
def test_texts_are_the_same_in_inference_mode(make_folder, format):
    folder = make_folder()
    expected = bitnet_jit.load(folder, head=format).generate(PROMPTS, 6)
    with torch.inference_mode():
        decoder = bitnet_jit.load(folder, head=format)
        assert all(map(torch.equal, decoder.generate(PROMPTS, 6), expected))
    assert all(map(torch.equal, decoder.generate(PROMPTS, 6), expected))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of torch._dynamo
@torch.inference_mode()
def test_compiled_whole_it_gives_the_same_logits(make_folder):
    torch._dynamo.reset()
    decoder = bitnet_jit.load(make_folder(), head="i2")
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    for tokens in (6, 1):
        ids = torch.tensor([PROMPTS[0][:tokens]])
        assert torch.equal(compiled(ids), decoder(ids))


def test_adapters_on_a_packed_head_are_refused_in_words(make_folder):
    decoder = bitnet_jit.load(make_folder(), head="i2")
    for pattern in ("head", "embedding"):
        if isinstance(getattr(decoder, pattern), PackedTable):
            with pytest.raises(InvalidInput, match=f"model: {pattern} is part of Decoder, which runs the weights"):
                bitnet_jit.add_lora(decoder, include=[pattern])


def test_the_problems_of_a_packed_head_are_tuned(make_folder):
    from bitnet_jit.tuning.problems import problems_of_model

    decoder = bitnet_jit.load(make_folder(), head="i2")
    asked = problems_of_model(decoder, [1])
    vocab, products = decoder.config.vocab_size, {"bit_linear": "a16"}
    products |= {"packed_embedding": ""} if decoder.head is None else {"embedding": ""}
    for op, activation in products.items():
        assert [p.activation for p in asked if p.op == op and p.out_features == vocab] == [activation]
    assert not [p for p in asked if p.op == "head_logits"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA or ROCm device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("format", "scale"), CASES)
def test_on_a_gpu_a_packed_head_is_that_of_floats(make_folder, format, scale, dtype):
    folder = make_folder(scale, "groups")
    decoder, floats = (bitnet_jit.load(folder, "cuda", dtype, head=word) for word in (format, "float32"))
    ids = torch.arange(decoder.config.vocab_size, device="cuda")
    rows, expected = (each.tables[0].look_up(ids, dtype) for each in (decoder, floats))
    assert torch.equal(rows, expected)
    assert bool(decoder.tables[0].look_up(torch.full_like(ids, -1), dtype).isnan().all())
    for count in (1, 7, 130):
        hidden = torch.randn(count, 256, generator=torch.Generator().manual_seed(count)).to("cuda", dtype)
        check_logits(decoder.logits(hidden), floats.logits(hidden), hidden, decoder.tables[1])
    assert torch.equal(decoder.generate(PROMPTS[0], 9), floats.generate(PROMPTS[0], 9))  # by captured steps
    assert [len(text) for text in decoder.generate(PROMPTS, 9)] == [15, 10, 11]
