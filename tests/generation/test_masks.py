"""Masks of tokens: by a plain loop over bits, and in the sampler."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.batch_sampler import BatchSampler
from bitnet_jit.generation.masks import apply_masks, mask_words
from bitnet_jit.generation.sampling import Sampling

CPU = torch.device("cpu")
SIZES = (1, 3, 17, 31, 32, 33, 64, 97, 256)


def packed(allowed, vocab_size):
    """Return the mask of some tokens, (1, words) int32."""
    words = [0] * mask_words(vocab_size)
    for token in allowed:
        words[token // 32] |= 1 << token % 32
    return torch.tensor([[word - (word >> 31 << 32) for word in words]], dtype=torch.int32)


@given(st.sampled_from(SIZES), st.integers(1, 3), st.randoms(use_true_random=False))
def test_only_tokens_whose_bit_is_set_are_left(vocab_size, rows, random):
    allowed = [{token for token in range(vocab_size) if random.random() < 0.5} for _ in range(rows)]
    logits = torch.randn(rows, vocab_size)
    expected = logits.clone()
    for row, tokens in enumerate(allowed):
        for token in set(range(vocab_size)) - tokens:
            expected[row, token] = -math.inf
    apply_masks(logits, torch.cat([packed(tokens, vocab_size) for tokens in allowed]))
    assert torch.equal(logits, expected)


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, 2.0])), min_size=1))
def test_a_masked_row_is_a_row_of_which_those_tokens_are_allowed(vocab_size, rows):
    logits = torch.randn(len(rows), vocab_size)
    before = logits.clone()
    allowed = [range(row % vocab_size, vocab_size, 2) for row in range(len(rows))]
    masked, expected = BatchSampler(vocab_size, CPU), BatchSampler(vocab_size, CPU)
    masks = []
    for row, (is_masked, temperature) in enumerate(rows):
        options = Sampling(temperature=temperature, seed=row, logprobs=1)
        masked.add(options, [], is_masked)
        tokens = allowed[row] if is_masked else None
        expected.add(Sampling(temperature=temperature, seed=row, logprobs=1, allowed_token_ids=tokens), [])
        masks += [packed(allowed[row], vocab_size)] if is_masked else []
    places = list(range(len(rows)))
    one = masked.choose(logits, places, places, masks=torch.cat(masks) if masks else None)
    two = expected.choose(logits, places, places)
    assert torch.equal(logits, before)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.logprobs.chosen, two.logprobs.chosen)
    assert one.fetch()[1] == {}


def test_a_mask_that_leaves_nothing_is_an_error_of_its_row_alone():
    sampler = BatchSampler(5, CPU)
    rows = [sampler.add(Sampling(), [], True) for _ in range(2)]
    masks = torch.cat([packed([], 5), packed([3], 5)])
    tokens, errors = sampler.choose(torch.zeros(2, 5), rows, [0, 0], masks=masks).fetch()
    assert tokens[1] == 3
    assert list(errors) == [0]


def test_nan_is_told_under_a_mask_too():
    sampler = BatchSampler(3, CPU)
    row = sampler.add(Sampling(), [], True)
    logits = torch.tensor([[math.nan, 1.0, 2.0]])
    assert bool(sampler.choose(logits, [row], [0], masks=packed([1], 3)).damaged)


@pytest.mark.parametrize("masks", [None, torch.zeros(2, 1, dtype=torch.int32)])
def test_each_masked_row_needs_its_mask(masks):
    sampler = BatchSampler(3, CPU)
    row = sampler.add(Sampling(), [], True)
    with pytest.raises(InvalidInput, match="masks"):
        sampler.choose(torch.zeros(1, 3), [row], [0], masks=masks)
