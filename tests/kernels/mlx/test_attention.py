"""Paged attention in MLX's own operations: against the reference, and against itself under any schedule."""

import mlx.core as mx
import numpy as np
import pytest
from attention_calls import PAGES, Heads, assert_attends, make_texts, pages_of, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_calls import KERNELS, to_array

from bitnet_jit.kernels.mlx.plain import attention
from bitnet_jit.ops.attention import PAGED_ATTENTION
from bitnet_jit.reference import attention as reference

MODELS = (
    Heads(4, 2, 16, "float32", "bfloat16"),
    Heads(5, 5, 8, "bfloat16", "bfloat16"),
    Heads(3, 1, 10, "float16", "float32"),
    Heads(2, 2, 2, "float32", "float16"),
    Heads(6, 2, 10, "float32", "int8"),
    Heads(5, 1, 8, "float16", "int8"),
)
LENGTHS = (1, 2, 17, 63, 64, 65, 129)
few = settings(max_examples=min(settings.default.max_examples, 4))


def run(model, call, cache):
    """Run the kernel as it is bound; return y, and the pages that the call leaves, as they are stored."""
    problem = model.problem(len(call["qkv"]))
    values = call | pages_of(cache)
    dtypes = {"qkv": model.x_dtype} | dict.fromkeys(PAGES, model.cache_dtype)
    arrays = [to_array(values[name], dtypes.get(name)) for name in PAGED_ATTENTION.spec.operands]
    y, *pages = KERNELS["mlx.plain_paged_attention"].bind(problem, None)(*arrays)
    return bits(y), [bits(page) for page in pages]


def bits(array):
    """Return an array's numbers as tests store them: bfloat16 as its bits."""
    return np.array(mx.view(array, mx.uint16) if array.dtype == mx.bfloat16 else array)


@pytest.mark.parametrize("model", MODELS, ids=str)
@few
@given(data=st.data(), in_pieces=st.booleans())
def test_it_computes_what_the_reference_does(model, data, in_pieces):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    cache = texts.cache()
    first = [data.draw(st.integers(0, length - 1)) for length in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK_ELEMENTS", 2**12 if in_pieces else 2**24)
        for parts in ([(0, n) for n in first], [(n, length - n) for n, length in zip(first, lengths, strict=True)]):
            call = texts.call(parts, padding=1)
            expected = reference.paged_attention(**wide(call, cache, model))
            y, cache = run(model, call, cache)
            assert_attends(y, cache, expected, model)


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2], MODELS[4]], ids=str)
@few
@given(data=st.data())
def test_any_schedule_gives_the_same_bits(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=2, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    whole, pages = run(model, texts.call([(0, length) for length in lengths]), texts.cache())
    cut, cache, rows = data.draw(st.integers(1, max(lengths))), texts.cache(), [[], []]
    for place in range(0, max(lengths), cut):
        parts = [(min(place, n), min(cut, max(n - place, 0))) for n in lengths]
        y, cache = run(model, texts.call(parts, padding=2), cache)
        for r, start in enumerate((0, parts[0][1])):
            rows[r].append(y[start : start + parts[r][1]])
    assert np.array_equal(np.concatenate([*rows[0], *rows[1]]).view(np.uint8), whole.view(np.uint8))
    for one, other in zip(cache, pages, strict=True):
        assert np.array_equal(one.view(np.uint8), other.view(np.uint8))
