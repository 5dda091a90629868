"""`paged_attention` on torch tensors: the plain kernel against the reference, odd tensors, and how calls are kept."""

import numpy as np
import pytest
import torch
from attention_calls import ARGUMENTS, PAGES, Heads, assert_attends, make_texts, pages_of, wide
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls
from bitnet_jit.ops.attention import PAGED_ATTENTION, paged_attention
from bitnet_jit.problem import PAGE
from bitnet_jit.reference import attention as reference

MODELS = (
    Heads(4, 2, 8),
    Heads(3, 1, 10, "float16", "float16"),
    Heads(2, 2, 6, "float32", "float16"),
    Heads(6, 2, 10, "float32", "int8"),
    Heads(2, 1, 8, "float16", "int8"),
)


def tensors(call, cache):
    """The arguments of a call, in order; the pages are those of the arrays."""
    values = call | pages_of(cache)
    names = (*ARGUMENTS, *PAGES[2:])
    return [None if values[name] is None else torch.from_numpy(values[name]) for name in names]


def plain(*arguments):
    """Run the plain torch kernel."""
    spec = PAGED_ATTENTION.spec
    problem = spec.problem(spec.check(arguments))
    (kernel,) = [kernel for kernel in registry.kernels_of("torch") if kernel.op == spec.name]
    operands = spec.operands_of(problem, arguments[0].shape[:-1])
    return calls.bind_call(kernel, kernel.bind(problem, None), operands, arguments[0].device)(*arguments)


@pytest.mark.parametrize("model", MODELS, ids=str)
@settings(max_examples=6)
@given(data=st.data())
def test_the_plain_kernel_computes_what_the_reference_does(model, data):
    lengths = data.draw(st.lists(st.sampled_from((1, 3, 64, 65, 130)), min_size=1, max_size=3))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    firsts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    cache, padding = texts.cache(), data.draw(st.integers(0, 2))
    plain(*tensors(texts.call([(0, first) for first in firsts], 1), cache))
    call = texts.call([(first, length - first) for first, length in zip(firsts, lengths, strict=True)], padding)
    expected = reference.paged_attention(**wide(call, cache, model))
    y = plain(*tensors(call, cache))
    assert_attends(y.numpy(), cache, expected, model)


@pytest.mark.parametrize("model", MODELS, ids=str)
@settings(max_examples=3)
@given(data=st.data())
def test_the_plain_kernel_gives_the_same_bits_in_any_chunks(model, data):
    texts = make_texts(model, [130, 70], data.draw(st.integers(0, 2**32 - 1)))
    whole, parts = texts.cache(), texts.cache()
    y = plain(*tensors(texts.call([(0, 130), (0, 70)]), whole))
    ends = sorted({*data.draw(st.lists(st.integers(1, 129), max_size=4)), 130})
    rows = [
        plain(*tensors(texts.call([(first, end - first), (0, 0)]), parts))
        for first, end in zip([0, *ends], ends, strict=False)
    ]
    assert torch.equal(torch.cat(rows), y[:130])
    plain(*tensors(texts.call([(0, 0), (0, 70)]), parts))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("op", [paged_attention, torch.ops.bitnet_jit.paged_attention])
def test_queries_may_be_parts_of_a_wider_tensor(op):
    texts = make_texts(MODELS[0], [70], 0)
    cache, again = texts.cache(), texts.cache()
    arguments = tensors(texts.call([(0, 70)]), cache)
    expected = op(*arguments)
    wider = torch.randn(70, 2 * MODELS[0].width)
    wider[:, ::2] = arguments[0]
    y = op(wider[:, ::2], *map(torch.from_numpy, again), *arguments[3:])
    assert torch.equal(y, expected)
    np.testing.assert_array_equal(again[0], cache[0])


@pytest.mark.parametrize("place", [1, 2])
def test_pages_that_are_not_contiguous_are_refused_and_left_alone(place):
    texts = make_texts(MODELS[0], [70], 0)
    arguments = tensors(texts.call([(0, 70)]), texts.cache())
    paged_attention(*arguments)
    wider = torch.zeros(arguments[place].shape[0], 2, *arguments[place].shape[1:])
    arguments[place] = wider[:, 1]
    with pytest.raises(InvalidInput, match=f"{ARGUMENTS[place]}: is written into, so that it has to be contiguous"):
        paged_attention(*arguments)
    assert not wider.any()


def test_calls_are_kept_whatever_their_tokens_sequences_and_tables():
    model = MODELS[0]
    texts = make_texts(model, [130, 70, 20], 0)
    calls.forget()
    cache = texts.cache()
    parts = [(0, 0)] * 3
    for step in range(60):
        parts = [
            (first + count, min(1 + (step + r) % 3, len(texts.qkv[r]) - first - count))
            for r, (first, count) in enumerate(parts)
        ]
        chosen = slice(None, 1 + step % 3)
        call = texts.call(parts, step % 5)
        call |= {"starts": call["starts"][: len(parts[chosen]) + 1], "tables": call["tables"][chosen]}
        if not len(call["positions"]):
            break
        paged_attention(*tensors(call, cache))
    assert step > 40
    assert len(PAGED_ATTENTION.calls) <= 5  # buckets of rows


def test_wrong_sizes_are_refused_after_right_ones():
    texts = make_texts(MODELS[0], [70], 0)
    arguments = tensors(texts.call([(0, 70)]), texts.cache())
    paged_attention(*arguments)
    for place, wrong in ((4, arguments[4][:-1]), (5, arguments[5][:1]), (6, arguments[6][:, :0])):
        with pytest.raises(InvalidInput, match=f"^{ARGUMENTS[place]}|^tables: expected int32"):
            paged_attention(*arguments[:place], wrong, *arguments[place + 1 :])


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(2, 4, 8), (5, 2, 8), (2, 2, 7), (2, 1, 514)])
def test_heads_that_do_not_fit_are_refused(heads, kv_heads, head_dim):
    model = Heads(heads, kv_heads, head_dim)
    qkv, rotary = torch.zeros(1, model.width), torch.zeros(1, head_dim)
    keys, values = torch.zeros(1, kv_heads, head_dim, PAGE), torch.zeros(1, kv_heads, PAGE, head_dim)
    index = [torch.tensor(a, dtype=torch.int32) for a in ([0], [0, 1], [[0]])]
    with pytest.raises(InvalidInput, match="^(qkv|keys): expected"):
        paged_attention(qkv, keys, values, rotary, *index, None, None)


@pytest.mark.parametrize("name", ["key_scale", "value_scale"])
def test_pages_of_int8_have_scales_and_no_others(name):
    for cache_dtype, words in (
        ("int8", "expected float32 .* beside pages of int8, got None"),
        ("float32", "expected None"),
    ):
        texts = make_texts(Heads(4, 2, 8, "float32", cache_dtype), [70], 0)
        cache = texts.cache()
        arguments = dict(zip((*ARGUMENTS, *PAGES[2:]), tensors(texts.call([(0, 70)]), cache), strict=True))
        paged_attention(*arguments.values())
        before = [a.copy() for a in cache]
        arguments[name] = None if cache_dtype == "int8" else torch.ones(texts.num_pages, 2, PAGE)
        with pytest.raises(InvalidInput, match=f"^{name}: {words}"):
            paged_attention(*arguments.values())
        for pages, same in zip(cache, before, strict=True):
            np.testing.assert_array_equal(pages, same)
