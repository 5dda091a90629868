"""The Numba kernel of paged attention against the reference, and against itself under any schedule. No torch here."""

from dataclasses import replace

import numpy as np
import pytest
from attention_calls import LENGTHS, Heads, assert_attends, make_texts, run_attention, schedules, wide
from halves import stored, values
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.kernels.numba.arrays import all_threads
from bitnet_jit.kernels.numba.attention.paged import KERNELS
from bitnet_jit.problem import PAGE
from bitnet_jit.reference import attention as reference

(KERNEL,) = KERNELS
MODELS = (
    Heads(4, 2, 16, "float32", "bfloat16"),
    Heads(5, 5, 8, "bfloat16", "bfloat16"),  # as many heads of keys; less than a register
    Heads(8, 1, 128, "float32", "float32"),
    Heads(3, 1, 80, "float16", "float16"),  # a register beyond whole tiles
    Heads(7, 1, 10, "bfloat16", "float32"),  # no whole register at all
    Heads(2, 2, 2, "float32", "float16"),
    Heads(8, 2, 128, "bfloat16", "int8"),
    Heads(6, 2, 10, "float32", "int8"),
    Heads(5, 1, 80, "float16", "int8"),
)
SCHEDULED = (MODELS[0], MODELS[3], MODELS[6], MODELS[7])
INT8 = MODELS[7]


def run_schedule(texts, calls, threads):
    """Run calls one after the other; return y per sequence, and the pages."""
    cache, parts = texts.cache(), [[] for _ in texts.qkv]
    for schedule, padding in calls:
        call = texts.call(schedule, padding)
        y = run_attention(KERNEL, texts.model, call, cache, all_threads(threads))
        assert not values(y[len(y) - padding :], texts.model.x_dtype).any()
        for r, (start, end) in enumerate(zip(call["starts"], call["starts"][1:], strict=False)):
            parts[r].append(y[start:end])
    return [np.concatenate(rows) for rows in parts], cache


@pytest.mark.parametrize("model", MODELS, ids=str)
@settings(max_examples=8)
@given(data=st.data())
def test_it_computes_what_the_reference_does(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    cache, threads = texts.cache(), data.draw(st.integers(1, 2))
    for schedule, padding in data.draw(schedules(lengths))[-3:]:
        before = [(0, first) for first, _ in schedule]
        run_attention(KERNEL, model, texts.call(before), cache)
        call = texts.call(schedule, padding)
        expected = reference.paged_attention(**wide(call, cache, model))
        y = run_attention(KERNEL, model, call, cache, all_threads(threads))
        assert_attends(y, cache, expected, model)


@pytest.mark.parametrize("model", SCHEDULED, ids=str)
@settings(max_examples=25)
@given(data=st.data())
def test_any_schedule_gives_the_same_bits(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    first, second = (run_schedule(texts, data.draw(schedules(lengths)), data.draw(st.integers(1, 2))) for _ in range(2))
    for one, other in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize(("heads", "kv_heads", "cache_dtype"), [(8, 2, "bfloat16"), (8, 2, "int8"), (5, 5, "int8")])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_long_context_in_parts_gives_the_same_bits(threads, heads, kv_heads, cache_dtype):
    model = Heads(heads, kv_heads, 64, "float32", cache_dtype)
    texts = make_texts(model, [2500, 700], 0)
    cache = texts.cache()
    run_attention(KERNEL, model, texts.call([(0, 2495), (0, 699)]), cache)
    for parts in ([(2499, 1), (699, 1)], [(2499, 1), (699, 0)], [(2495, 5), (699, 0)]):
        call = texts.call(parts)
        expected = run_attention(KERNEL, model, call, [a.copy() for a in cache])
        y = run_attention(KERNEL, model, call, [a.copy() for a in cache], all_threads(threads))
        np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("model", [MODELS[0], INT8], ids=str)
def test_shared_pages_are_read_by_all(model):
    texts = make_texts(model, [150, 140, 131], 3, shared=2)
    cache = texts.cache()
    whole = [(0, 150), (0, 0), (0, 0)]
    y = run_attention(KERNEL, model, texts.call(whole), cache)
    call = texts.call([(150, 0), (128, 12), (128, 3)])
    expected = reference.paged_attention(**wide(call, cache, model))
    assert_attends(run_attention(KERNEL, model, call, cache, all_threads(2)), cache, expected, model)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("model", [MODELS[0], INT8], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_stays_in_its_sequence_from_its_position_on(bad, model):
    place = 70
    texts = make_texts(model, [150, 100], 4)
    right, _ = run_schedule(texts, [([(0, 150), (0, 100)], 0)], 1)
    texts.qkv[0][place, :] = stored(np.array([bad], np.float32), model.x_dtype)[0]
    for calls in ([([(0, 150), (0, 100)], 0)], [([(0, 75), (0, 50)], 0), ([(75, 75), (50, 50)], 0)]):
        y, _ = run_schedule(texts, calls, 2)
        np.testing.assert_array_equal(y[1], right[1])
        np.testing.assert_array_equal(y[0][:place], right[0][:place])
        assert not np.isfinite(y[0][place:]).all(1).any()


@pytest.mark.parametrize("model", [*MODELS[:2], INT8], ids=str)
def test_large_scores_lose_nothing(model):
    texts = make_texts(model, [130], 5)
    texts = type(texts)(
        model,
        tuple(stored(values(x, model.x_dtype) * 40, model.x_dtype)[0] for x in texts.qkv),
        texts.rotary,
        texts.tables,
        texts.num_pages,
    )
    cache = texts.cache()
    call = texts.call([(0, 130)])
    expected = reference.paged_attention(**wide(call, cache, model))
    assert_attends(run_attention(KERNEL, model, call, cache), cache, expected, model)


def test_padding_between_tokens_is_left_out():
    model = MODELS[0]
    texts = make_texts(model, [40], 6)
    cache, again = texts.cache(), texts.cache()
    expected = run_attention(KERNEL, model, texts.call([(0, 40)]), cache)
    call = texts.call([(0, 40)])
    rows = np.insert(np.arange(40), (0, 0, 7, 40), -1)  # where padding goes
    spread = call | {
        "qkv": np.ascontiguousarray(call["qkv"][rows]),
        "positions": np.where(rows < 0, -1, call["positions"][rows]).astype(np.int32),
        "starts": np.array([0, len(rows) - 1], np.int32),
    }
    y = run_attention(KERNEL, model, spread, again)
    np.testing.assert_array_equal(y[rows >= 0], expected)
    assert not y[rows < 0].any()
    np.testing.assert_array_equal(again[0], cache[0])


@pytest.mark.parametrize("factor", [0.0, 1e-40, 1e-6, 1e30])
def test_extreme_values_have_codes_and_scales_of_the_reference(factor):
    texts = make_texts(INT8, [130], 7)
    texts = replace(texts, qkv=tuple((x * np.float32(factor)).astype(np.float32) for x in texts.qkv))
    cache = texts.cache()
    call = texts.call([(0, 130)])
    expected = reference.paged_attention(**wide(call, cache, INT8))
    y = run_attention(KERNEL, INT8, call, cache)
    for pages, right in zip(
        cache, (expected.keys, expected.values, expected.key_scale, expected.value_scale), strict=True
    ):
        np.testing.assert_array_equal(pages, right)
    if factor < 1:
        assert_attends(y, cache, expected, INT8)


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_bad_part_of_a_token_has_codes_of_zero_and_a_scale_of_nan(part):
    texts, place, width = make_texts(INT8, [100], 8), 70, INT8.head_dim
    first = (INT8.heads + (INT8.kv_heads if part == "values" else 0)) * width  # of the first head
    texts.qkv[0][place, first + 1] = np.inf
    cache = texts.cache()
    y = run_attention(KERNEL, INT8, texts.call([(0, 100)]), cache)
    page, slot = texts.tables[0, place // PAGE], place % PAGE
    pages, scales = (cache[0][page, :, :, slot], cache[2]) if part == "keys" else (cache[1][page, :, slot], cache[3])
    assert not pages[0].any()
    assert pages[1].any()
    assert np.isnan(scales[page, :, slot]).tolist() == [True, False]
    bad = np.isnan(y[place:].reshape(-1, INT8.kv_heads, INT8.heads // INT8.kv_heads * width))
    assert bad[:, 0].all()
    assert not bad[:, 1].any()
    assert np.isfinite(y[:place]).all()


def test_numbers_are_near_those_of_a_cache_of_floats():
    texts = make_texts(Heads(8, 2, 128, "float32", "int8"), [200], 9)
    floats = replace(texts, model=Heads(8, 2, 128))
    y, expected = (run_attention(KERNEL, t.model, t.call([(0, 200)]), t.cache()) for t in (texts, floats))
    assert np.linalg.norm(y - expected) < 0.015 * np.linalg.norm(expected)
    assert not np.array_equal(y, expected)
