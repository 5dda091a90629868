"""Probabilities after temperature, top-k and top-p, against NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.generation.sampling import Sampler, Sampling, kept_probabilities


def expected(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Compute the probabilities of one row, token by token."""
    shifted = logits / temperature
    order = np.argsort(-shifted, kind="stable")[: top_k or len(logits)]
    weights = np.exp(shifted[order] - shifted[order].max())
    weights /= weights.sum()
    if top_p is not None:
        kept = np.cumsum(weights) - weights < top_p
        weights = np.where(kept, weights, 0) / weights[kept].sum()
    probabilities = np.zeros(len(logits))
    probabilities[order] = weights
    return probabilities


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40),
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.none() | st.floats(0.01, 1),
)
def test_probabilities(seed, size, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).permutation(size) * 0.7  # no two alike, so that no order is left open
    probabilities = kept_probabilities(torch.tensor(logits)[None], Sampling(temperature, top_k, top_p))
    assert np.allclose(probabilities[0].numpy(), expected(logits, temperature, top_k, top_p), atol=1e-9)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -math.inf]]).expand(4000, 4)
    drawn = Sampler(Sampling(temperature=2.0, seed=1)).choose(logits)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.0, 0.5, 1.0, -math.inf]).softmax(0), atol=0.03)
    assert shares[3] == 0


def test_greedy_takes_the_largest():
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, -1.0, 4.0]])
    assert Sampler(Sampling()).choose(logits).tolist() == [1, 0]


@pytest.mark.parametrize("extremes", [[1e38, -1e38, 0.0], [-3e38, -3e38, -3e38]])
def test_extreme_logits(extremes):
    probabilities = kept_probabilities(torch.tensor([extremes]).double(), Sampling(temperature=1e-300))
    assert probabilities.sum() == pytest.approx(1)
