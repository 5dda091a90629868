"""Draws: which tokens can be drawn, how often, and that neither depends on the other rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bitnet_jit.generation import draw as draw_module
from bitnet_jit.generation.draw import ONE, draw, drawn_place, kept_weights, share_of, share_words, weights
from bitnet_jit.generation.order import likeliest
from bitnet_jit.generation.plan import make_limits, way_of
from bitnet_jit.generation.random_bits import random_words
from bitnet_jit.generation.sampling import Sampling

CPU = torch.device("cpu")
MARGIN = 1e-4  # relative: float32's exponential may decide otherwise nearer to a limit
OPTIONS = st.builds(
    Sampling,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.just(0.0) | st.floats(1e-6, 1),
)


def limits_of(options, size):
    return make_limits([options], way_of(options, size), size, CPU)


def kept(logits, options):
    """Return the share of each token of one row (V,), as what is drawn from has it."""
    limits = limits_of(options, len(logits))
    values, ids = logits[None], torch.arange(len(logits))[None]
    if limits.candidates is not None:
        values, ids = likeliest(values, limits.candidates)
    w = kept_weights(weights(values, logits.amax()[None], limits.temperature), limits)
    return torch.zeros(len(logits), dtype=torch.int64).scatter(0, ids[0], w[0]).double() / w.sum()


def plain(logits, options):
    """Compute the share of each token in float64, one option after the other, and how near a limit decides."""
    order = np.argsort(-logits, kind="stable")[: options.top_k or len(logits)]
    share = np.exp((logits[order].astype(float) - logits.max()) / options.temperature)
    nearest = np.abs(np.log(np.maximum(share, 1e-300) / 2.0**-39)).min()
    share = np.where(share >= 2.0**-39, share, 0)
    if options.top_p not in (None, 1.0):
        before = np.cumsum(share / share.sum()) - share / share.sum()
        nearest = min(nearest, np.abs(before - options.top_p).min() / options.top_p)
        share = np.where(before < options.top_p, share, 0)
    if options.min_p:
        nearest = min(nearest, np.abs(np.log(np.maximum(share, 1e-300) / options.min_p)).min())
        share = np.where(share >= options.min_p, share, 0)
    shares = np.zeros(len(logits))
    shares[order] = share / share.sum()
    return shares, nearest


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40), options=OPTIONS)
def test_shares_are_those_of_float64(seed, size, options):
    logits = (np.random.default_rng(seed).permutation(size) * 0.7).astype(np.float32)
    expected, nearest = plain(logits, options)
    assume(nearest > MARGIN)
    shares = kept(torch.from_numpy(logits), options).numpy()
    assert (shares > 0).tolist() == (expected > 0).tolist()
    assert np.allclose(shares, expected, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(3, 40), options=OPTIONS)
def test_the_tokens_are_those_of_transformers(seed, size, options):
    logits = (np.random.default_rng(seed).permutation(size) * 0.3).astype(np.float32)
    assume(plain(logits, options)[1] > MARGIN)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(options.temperature)])
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p is not None:
        warpers.append(MinPLogitsWarper(options.min_p))
    scores = warpers(torch.zeros(1, 0, dtype=torch.int64), torch.from_numpy(logits)[None].double())[0]
    possible = scores.isfinite() & ((scores - scores.max()).exp() >= 2.0**-39)
    assert (kept(torch.from_numpy(logits), options) > 0).tolist() == possible.tolist()


def test_the_likeliest_token_is_in_every_nucleus():
    assert kept(torch.tensor([0.0, 2.0, 1.0]), Sampling(temperature=1.0, top_p=1e-300)).tolist() == [0, 1, 0]


def test_top_k_leaves_k_of_equal_tokens():
    logits = torch.zeros(7)
    assert (kept(logits, Sampling(temperature=1.0, top_k=3)) > 0).tolist() == [True] * 3 + [False] * 4
    assert (kept(logits, Sampling(temperature=1.0, top_p=0.5)) > 0).tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("extremes", [[1e38, -1e38, 0.0], [-3e38, -3e38, -3.1e38], [3e38, -math.inf, -3e38]])
@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1e300])
def test_extreme_logits_and_temperatures(extremes, temperature):
    for options in (Sampling(temperature), Sampling(temperature, top_p=0.999), Sampling(temperature, top_k=3)):
        shares = kept(torch.tensor(extremes), options)
        assert shares.sum() == 1
        assert shares[torch.tensor(extremes) == -math.inf].sum() == 0


@given(total=st.integers(0, 2**59 - 1), fraction=st.integers(0, 2**64))
def test_shares_are_exact(total, fraction):
    share = share_of(torch.tensor([total]), torch.tensor([divmod(fraction, 2**32)]))
    assert int(share) == total * fraction // 2**64


@given(st.floats(2.0**-1000, 1))
def test_a_share_in_words(share):
    high, low = share_words(share)
    assert high * 2**32 + low == int(share * 2**64)
    assert low < 2**32


def chi_square(counts, shares):
    """Return how many deviations the chi-square statistic lies above its mean."""
    assert counts[shares == 0].sum() == 0
    expected = shares[shares > 0] * counts.sum()
    assert expected.min() > 5
    statistic = float(((counts[shares > 0] - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    return (statistic - freedom) / math.sqrt(2 * max(freedom, 1))


DISTRIBUTIONS = {
    "temperature": Sampling(temperature=1.3),
    "top_k": Sampling(temperature=0.7, top_k=4),
    "top_p": Sampling(temperature=1.0, top_p=0.8),
    "min_p": Sampling(temperature=1.0, min_p=0.1),
    "all": Sampling(temperature=2.0, top_k=20, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("varied", ["positions", "seeds"])
def test_draws_follow_the_distribution(name, varied):
    options, number = DISTRIBUTIONS[name], 60_000
    logits = torch.randn(33, generator=torch.Generator().manual_seed(1)) * 1.5
    shares, nearest = plain(logits.numpy(), options)
    assert nearest > MARGIN
    many, one = torch.arange(number), torch.tensor(5)
    words = random_words(*((one, many) if varied == "positions" else (many, one)))
    one_row = limits_of(options, 33)
    tokens = draw(logits.expand(number, 33), logits.amax().expand(number), words, one_row)
    counts = torch.bincount(tokens, minlength=33).double().numpy()
    assert chi_square(counts, shares) < 4
    near = shares**1.05
    assert chi_square(counts, near / near.sum()) > 4


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_ends_of_the_random_bits(place):
    """The smallest bits draw the first token that has weight, the largest the last one."""
    w = torch.zeros(1, 5, dtype=torch.int64)
    w[0, place : place + 3] = torch.tensor([1, ONE, 1])
    lowest, highest = torch.tensor([[0, 0]]), torch.tensor([[2**32 - 1, 2**32 - 1]])
    assert (drawn_place(w, lowest).item(), drawn_place(w, highest).item()) == (place, place + 2)


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 0.01, 1.0, 8.0]), top_p=st.floats(0.001, 1))
def test_few_candidates_give_the_draw_of_a_whole_sort(seed, spread, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 5003, generator=generator) * spread
    words, top = torch.randint(2**32, (1, 2), generator=generator), logits.amax(-1)
    limits = limits_of(Sampling(temperature=1.0, top_p=top_p, min_p=0.001), 5003)
    assert limits.candidates in (5003, None)
    values, ids = likeliest(logits, 5003)
    place = drawn_place(kept_weights(weights(values, top, limits.temperature), limits), words)
    if top_p < 1:
        assert draw(logits, top, words, limits).tolist() == [ids[0, place].item()]
    assert 5003 // draw_module.FEW_STEP > draw_module.FEW  # so that few were tried


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), size=st.sampled_from([1, 3, 17, 33, 257, 40_007]))
def test_weights_do_not_depend_on_the_place_of_a_row(seed, rows, size):
    """The promise rests on exp: torch's gives an element the same bits wherever it lies, also at the end of a piece."""
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 9
    temperature = torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed)) + 0.1
    top = logits.amax(-1)
    together = weights(logits, top, temperature)
    for row in range(rows):
        here = slice(row, row + 1)
        assert torch.equal(weights(logits[here], top[here], temperature[here]), together[here])
        for first in (1, 7):  # elements at other offsets within a vector
            part = weights(logits[here, first:], top[here], temperature[here])
            assert torch.equal(part, together[here, first:])
