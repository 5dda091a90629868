"""Metal's kernels of paged attention against the reference, and against themselves under any schedule and config."""

from dataclasses import replace

import numpy as np
import pytest
from attention_calls import LENGTHS, PAGES, Heads, assert_attends, make_texts, pages_of, schedules, wide
from halves import stored, values
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit.kernels.metal.attention import paged
from bitnet_jit.problem import PAGE
from bitnet_jit.reference import attention as reference

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

MODELS = (
    Heads(4, 2, 16, "float32", "bfloat16"),
    Heads(5, 5, 8, "bfloat16", "bfloat16"),  # as many heads of keys
    Heads(3, 1, 80, "float16", "float16"),  # pairs of dimensions that not all lanes have
    Heads(7, 1, 10, "bfloat16", "float32"),  # the last simdgroup has fewer heads
    Heads(2, 2, 2, "float32", "float16"),
    Heads(6, 2, 66, "float32", "int8"),
    Heads(5, 1, 10, "float16", "int8"),
)
FLOATS, INT8 = MODELS[0], MODELS[6]


def run(model, call, cache, config=None, seed=0, full=paged.FULL):
    """Run the kernel: it writes into the pages; return y, which was poisoned before."""
    problem = model.problem(len(call["qkv"]))
    arguments = call | pages_of(cache)
    shapes = {name: np.shape(value) for name, value in arguments.items() if value is not None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged, "FULL", full)
        bound = paged.bind(problem, config or paged.configs(problem)[0]).of(shapes)
    outputs = {"y": ((len(call["qkv"]), model.heads * model.head_dim), model.x_dtype)}
    result = run_bound(bound, len(call["qkv"]), arguments, outputs, seed)
    for name, pages in zip(PAGES, cache, strict=False):
        pages[:] = result[name]
    return result["y"]


def bits(arrays):
    return [array.view(np.uint8) for array in arrays]


@pytest.mark.parametrize("model", MODELS, ids=str)
@settings(max_examples=4)
@given(data=st.data())
def test_it_computes_what_the_reference_does(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS[:-1]), min_size=1, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    cache, full = texts.cache(), data.draw(st.sampled_from([0, 10**6]))  # pieces joined at once, or apart
    schedule, padding = data.draw(schedules(lengths))[-1]
    if any(first for first, _ in schedule):
        run(model, texts.call([(0, first) for first, _ in schedule]), cache)
    call = texts.call(schedule, padding)
    expected = reference.paged_attention(**wide(call, cache, model))
    assert_attends(run(model, call, cache, seed=padding, full=full), cache, expected, model)


@pytest.mark.parametrize("model", [FLOATS, INT8], ids=str)
@settings(max_examples=4)
@given(data=st.data())
def test_any_schedule_config_and_order_of_threads_gives_the_same_bits(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS[:6]), min_size=1, max_size=3))
    texts, results = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1))), []
    every = paged.space(model.problem(1))[:3]
    for config, full in ((every[0], 0), (data.draw(st.sampled_from(every)), 10**6)):
        cache, parts = texts.cache(), [[] for _ in texts.qkv]
        for schedule, padding in data.draw(schedules(lengths)):
            call = texts.call(schedule, padding)
            y = run(model, call, cache, config, data.draw(st.integers(0, 2**32 - 1)), full)
            assert not values(y[len(y) - padding :], model.x_dtype).any()
            for r, (start, end) in enumerate(zip(call["starts"], call["starts"][1:], strict=False)):
                parts[r].append(y[start:end])
        results.append([*(np.concatenate(rows) for rows in parts), *cache])
    for one, other in zip(*map(bits, results), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "model", [Heads(3, 1, 258, "float32", "float16"), Heads(2, 2, 512, "float32", "int8")], ids=str
)
def test_large_heads(model):
    texts = make_texts(model, [PAGE + 2], 1)
    cache = texts.cache()
    run(model, texts.call([(0, PAGE)]), cache)
    call = texts.call([(PAGE, 2)])
    expected = reference.paged_attention(**wide(call, cache, model))
    assert_attends(run(model, call, cache), cache, expected, model)


@pytest.mark.parametrize("model", [FLOATS, INT8], ids=str)
def test_a_simdgroup_may_take_several_pieces_of_many(model, monkeypatch):
    monkeypatch.setattr(paged, "MAX_TURNS", 9)
    texts = make_texts(model, [300, 70], 0)
    cache = texts.cache()
    run(model, texts.call([(0, 299), (0, 69)]), cache)
    call = texts.call([(299, 1), (69, 1)])
    results = [run(model, call, [pages.copy() for pages in cache], full=full) for full in (10**6, 0)]
    expected = reference.paged_attention(**wide(call, cache, model))
    for y in results:
        after = [pages.copy() for pages in cache]
        run(model, call, after)
        assert_attends(y, after, expected, model)
    np.testing.assert_array_equal(*bits(results))


@pytest.mark.parametrize("model", [FLOATS, INT8], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_stays_in_its_sequence_from_its_position_on(bad, model):
    place = 66
    texts = make_texts(model, [80, 20], 4)
    right = run(model, texts.call([(0, 80), (0, 20)]), texts.cache())
    texts.qkv[0][place, :] = stored(np.array([bad], np.float32), model.x_dtype)[0]
    for full in (0, 10**6):
        y = run(model, texts.call([(0, 80), (0, 20)]), texts.cache(), full=full)
        np.testing.assert_array_equal(y[80:], right[80:])
        np.testing.assert_array_equal(y[:place], right[:place])
        assert not np.isfinite(values(y[place:80], model.x_dtype)).all(1).any()


def test_a_page_of_infinite_scores_below_all_others_adds_nothing():
    model = Heads(2, 2, 2, "float32", "float16")
    texts = make_texts(model, [70], 5)
    texts.rotary[:] = 0.5  # an angle that makes no NaN of infinity
    queries, keys = texts.qkv[0][:, :4], texts.qkv[0][:, 4:8]
    queries[:, ::2], queries[:, 1::2] = -2, 1  # rotated: (-1.5, -0.5)
    keys[:PAGE, ::2], keys[:PAGE, 1::2] = np.inf, 0
    cache = texts.cache()
    call = texts.call([(0, 70)])
    for full in (0, 10**6):
        y = run(model, call, cache, full=full)
        assert np.isnan(y[:PAGE]).all()
        assert np.isfinite(y[PAGE:]).all()
        lone = replace(texts, qkv=(texts.qkv[0][PAGE:],)).call([(0, 6)])
        np.testing.assert_array_equal(y[PAGE:], run(model, lone, texts.cache()))


@pytest.mark.parametrize("factor", [0.0, 1e-40, 1e-6, 40.0])
@pytest.mark.parametrize("model", [FLOATS, replace(INT8, x_dtype="float32")], ids=str)
def test_extreme_values(model, factor):
    texts = make_texts(model, [70], 7)
    texts = replace(texts, qkv=tuple((x * np.float32(factor)).astype(np.float32) for x in texts.qkv))
    cache = texts.cache()
    call = texts.call([(0, 70)])
    expected = reference.paged_attention(**wide(call, cache, model))
    assert_attends(run(model, call, cache), cache, expected, model)


def test_padding_between_tokens_is_left_out():
    texts = make_texts(FLOATS, [20], 6)
    cache, again = texts.cache(), texts.cache()
    call = texts.call([(0, 20)])
    expected = run(FLOATS, call, cache)
    rows = np.insert(np.arange(20), (0, 0, 7, 20), -1)  # where padding goes
    spread = call | {
        "qkv": np.ascontiguousarray(call["qkv"][rows]),
        "positions": np.where(rows < 0, -1, call["positions"][rows]).astype(np.int32),
        "starts": np.array([0, len(rows) - 1], np.int32),
    }
    y = run(FLOATS, spread, again)
    np.testing.assert_array_equal(y[rows >= 0], expected)
    assert not y[rows < 0].any()
    np.testing.assert_array_equal(again[0], cache[0])


@pytest.mark.parametrize("full", [0, 10**6])
def test_tokens_behind_the_last_sequence_are_padding_whatever_their_position(full):
    texts = make_texts(FLOATS, [5], 9)
    call, cache, again = texts.call([(0, 5)], padding=3), texts.cache(), texts.cache()
    expected = run(FLOATS, call, cache, full=full)
    call["positions"][-3:] = 2
    np.testing.assert_array_equal(run(FLOATS, call, again, full=full), expected)
    np.testing.assert_array_equal(again[0], cache[0])


def test_pages_that_no_position_needs_stay():
    texts = make_texts(INT8, [PAGE + 1], 8)
    cache = texts.cache()
    run(INT8, texts.call([(0, PAGE + 1)]), cache)
    (unused,) = set(range(texts.num_pages)) - set(texts.tables[0].tolist())
    assert (cache[0][unused] == -128).all()
    assert (cache[0][texts.tables[0, 1], :, :, 1:] == -128).all()
    assert np.isnan(cache[3][texts.tables[0, 1], :, 1:]).all()


@pytest.mark.parametrize("head_dim", [2, 80, 256, 512])
@pytest.mark.parametrize("heads", [(1, 1), (7, 1), (32, 2)])
def test_every_problem_has_a_config_that_fits(head_dim, heads):
    problem = Heads(*heads, head_dim).problem(1)
    assert paged.configs(problem)
    assert all(paged.fits(problem, config) for config in paged.space(problem))
