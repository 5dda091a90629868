"""Embeddings: the mean of hidden states, the same bits alone, in a batch, in chunks and beside running texts."""

import asyncio
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.engine import Grammar, InferenceEngine
from bitnet_jit.errors import InvalidInput, ModelNotFound, RequestCancelled, RequestFailed, RequestTimeout
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.models.pooling import LARGEST, Pool

TEXTS = ["In the beginning ", "x", "And it came to pass in those days, " * 9, "né 😀", "a" * 64, "b" * 65]


def expected(decoder, text):
    """Return the embedding by the network alone, in float64."""
    ids = torch.tensor([list(text.encode())])
    hidden = decoder.hidden(ids, decoder.new_cache(1, ids.shape[1]))[0].double()
    return (hidden.mean(0) / hidden.mean(0).norm()).float()


@pytest.fixture
def engine(make_engine):
    return make_engine()


def test_an_embedding_is_the_mean_of_the_hidden_states(tiny, engine):
    vectors = engine.embed("tiny", TEXTS)
    assert vectors.shape == (len(TEXTS), tiny.config.hidden_size)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.stack([expected(tiny, text) for text in TEXTS]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6),
    budget=st.sampled_from([None, 1, 7, 64]),
    writing=st.integers(0, 3),
)
def test_the_bits_are_those_of_a_text_alone(tiny, texts, budget, writing):
    with InferenceEngine(bitnet_jit.engine.EngineConfig(step_tokens=budget)) as engine:
        engine.add_model("tiny", tiny)
        sampled = Sampling(temperature=1.0, seed=5)
        beside = [engine.submit("tiny", "And he said, ", 30, sampled) for _ in range(writing)]
        together = [engine.submit_embedding("tiny", text) for text in texts]
        vectors = torch.stack([handle.result() for handle in together])
        for index, text in enumerate(texts):
            assert torch.equal(engine.embed("tiny", [text])[0], vectors[index])
        prompt = list(b"And he said, ")
        alone = tiny.generate(prompt, 30, sampling=sampled).tolist()[len(prompt) :]
        assert [generation.result().tokens for generation in beside] == [alone] * writing


def test_ids_are_taken_too_and_texts_share_the_cache_of_prefixes_with_none(engine):
    text = TEXTS[2]
    first = engine.embed("tiny", [text])
    again = engine.embed("tiny", [list(text.encode()), torch.tensor(list(text.encode()))])
    assert torch.equal(again, first.expand(2, -1))
    completion = engine.submit("tiny", text, 3).result()
    assert completion.cached_tokens > 0


def test_a_text_that_lost_its_pages_is_summed_once(tiny, make_engine):
    engine = make_engine(num_pages=6, prefix_cache=False, step_tokens=16)
    prompt = "In those days " * 9
    handles = [engine.submit("tiny", prompt, 120), engine.submit_embedding("tiny", "c" * 300)]
    vector = handles[1].result()
    handles[0].result()
    assert torch.equal(vector, engine.embed("tiny", ["c" * 300])[0])


def test_a_text_may_fill_the_context(tiny, engine):
    context = tiny.config.context_length
    assert engine.embed("tiny", ["a" * context]).shape[0] == 1
    with pytest.raises(InvalidInput):
        engine.embed("tiny", ["a" * (context + 1)])


def test_more_texts_than_may_run(make_engine):
    engine = make_engine(max_running=2, max_waiting=3)
    vectors = engine.embed("tiny", ["a", "b"] * 10)
    assert torch.equal(vectors[0::2], vectors[:1].expand(10, -1))
    assert not torch.equal(vectors[0], vectors[1])


def test_handles_are_awaited_cancelled_and_timed(engine):
    async def both():
        return await asyncio.gather(engine.embed_async("tiny", ["x"]), engine.submit_embedding("tiny", "x"))

    one, two = asyncio.run(both())
    assert torch.equal(one[0], two)
    handle = engine.submit_embedding("tiny", "a" * 1000)
    handle.cancel()
    late = engine.submit_embedding("tiny", "a" * 1000, timeout_s=1e-9)
    with pytest.raises(RequestTimeout):
        late.result()
    with pytest.raises(RequestCancelled):
        handle.result()
    assert torch.equal(engine.submit_embedding("tiny", "x").result(), two)


def test_a_json_text_beside_embeddings(engine):
    handles = [engine.submit_embedding("tiny", text) for text in TEXTS]
    text = engine.submit("tiny", "A list: ", 50, grammar=Grammar.json_schema({"enum": ["Abel"]})).result()
    assert text.text == '"Abel"'
    assert all(handle.result().isfinite().all() for handle in handles)


@pytest.mark.parametrize("prompts", ["text", b"text", [], None, 3, torch.zeros(3, dtype=torch.int64)])
def test_what_is_no_list_of_texts_is_refused(engine, prompts):
    with pytest.raises(InvalidInput, match="prompts: expected a list of texts"):
        engine.embed("tiny", prompts)


@pytest.mark.parametrize("prompt", ["", [], [256], [-1], [1.5], None])
def test_a_bad_text_ends_the_call_and_nothing_else(engine, prompt):
    with pytest.raises(InvalidInput):
        engine.embed("tiny", ["good", prompt])
    assert engine.embed("tiny", ["good"]).shape[0] == 1


def test_a_model_that_reads_no_text_is_refused(engine):
    engine.add_model("layer", torch.nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="is no decoder"):
        engine.embed("layer", ["x"])
    with pytest.raises(ModelNotFound):
        engine.embed("absent", ["x"])


def test_a_damaged_model_says_so():
    decoder = bitnet_jit.load()
    decoder.norm.weight.data[3] = math.nan
    with InferenceEngine() as engine:
        engine.add_model("damaged", decoder)
        with pytest.raises(RequestFailed, match="damaged"):
            engine.embed("damaged", ["x"])


FLOATS = st.floats(-LARGEST, LARGEST, width=32) | st.sampled_from([0.0, -0.0, 1e-40, 2.0**-24, LARGEST, -LARGEST])


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=20), st.data())
def test_a_sum_is_the_same_bits_in_any_chunks(rows, data):
    hidden = torch.tensor(rows, dtype=torch.float32)
    whole, parts = Pool(), Pool()
    whole.add(hidden, 0)
    place = 0
    while place < len(hidden):
        end = place + data.draw(st.integers(1, len(hidden) - place))
        start = data.draw(st.integers(0, place))  # tokens that were computed before are computed again
        parts.add(hidden[start:end], start)
        place = end
    assert whole.read() == parts.read() == ""
    assert torch.equal(whole.vector, parts.vector)
    mean = hidden.double().mean(0)
    if mean.norm() > 1e-3:
        torch.testing.assert_close(whole.vector.double(), mean / mean.norm(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2 * LARGEST])
def test_states_that_are_no_numbers_fail(value):
    pool = Pool()
    pool.add(torch.tensor([[1.0, 2.0], [value, 0.0]]), 0)
    pool.add(torch.ones(1, 2), 2)
    assert "NaN or infinite" in pool.read()
    assert pool.vector is None
