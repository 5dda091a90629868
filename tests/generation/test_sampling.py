"""The options of sampling: what they take, what they refuse and in which words."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.sampling import Sampling, gather_options, per_prompt

BAD = {
    "temperature": [-1.0, math.nan, math.inf, "1", None, True],
    "top_k": [0, -3, 1.5, 2**31, "5"],
    "top_p": [0.0, -0.1, 1.5, math.nan, "1"],
    "min_p": [-0.1, 1.01, math.nan, "0"],
    "seed": [-1, 2**63, 0.5],
    "repetition_penalty": [0, 0.0, -1.0, math.nan, math.inf, "1", None],
    "presence_penalty": [math.nan, math.inf, -math.inf, "1", None],
    "frequency_penalty": [math.nan, math.inf, None],
    "logit_bias": [[(1, 2.0)], {-1: 1.0}, {1.5: 1.0}, {1: math.nan}, {1: -math.inf}, {1: "a"}, 3],
    "banned_token_ids": [3, "12", [-1], [1.5], None, [[1]]],
    "allowed_token_ids": [[], 3, "12", [-1], ["a"]],
    "logprobs": [-1, 1.5, "2"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_named(name, value):
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        Sampling(**{name: value})


def test_the_message_has_the_value():
    with pytest.raises(InvalidInput, match="presence_penalty: expected a finite number, got nan"):
        Sampling(presence_penalty=math.nan)
    with pytest.raises(InvalidInput, match="logit_bias: the bias of token 7: expected a finite number, got inf"):
        Sampling(logit_bias={7: math.inf})
    with pytest.raises(InvalidInput, match=r"allowed_token_ids: .* got \(3, 4\); each is in banned_token_ids, too"):
        Sampling(allowed_token_ids=[4, 3], banned_token_ids=[3, 4, 5])


def test_the_first_four_keep_their_order():
    assert Sampling(0.5, 3, 0.9, 7) == Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=7)
    with pytest.raises(TypeError, match="positional"):
        Sampling(0.5, 3, 0.9, 7, 0.1)


def test_numbers_of_every_kind_become_pythons():
    options = Sampling(
        temperature=np.float32(0.5),
        top_k=torch.tensor(3),
        min_p=np.float64(0.25),
        repetition_penalty=2,
        logit_bias={np.int64(5): np.float32(1.5), 2: -1},
        banned_token_ids=torch.tensor([4, 1, 4]),
        allowed_token_ids={9, 1},
    )
    assert options.logit_bias == {2: -1.0, 5: 1.5}
    assert (options.banned_token_ids, options.allowed_token_ids) == ((1, 4), (1, 9))
    values = [options.temperature, options.top_k, options.min_p, options.repetition_penalty]
    assert [(type(value), value) for value in values] == [(float, 0.5), (int, 3), (float, 0.25), (float, 2.0)]


def test_options_are_values():
    options = Sampling(temperature=1.0, logit_bias={3: 1.0}, banned_token_ids=[1])
    for copied in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert copied == options
        assert hash(copied) == hash(options)
    assert options != Sampling(temperature=1.0, logit_bias={3: 2.0}, banned_token_ids=[1])
    with pytest.raises(AttributeError):
        options.temperature = 2.0


def test_a_seed_is_given_once():
    first, second = (Sampling(temperature=1.0).seeded() for _ in range(2))
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**63
    assert first.seeded() == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Sampling(logit_bias={8: 1.0}), "logit_bias: expected ids from 0 to 7, got 8"),
        (Sampling(banned_token_ids=[1, 9]), "banned_token_ids: expected ids from 0 to 7, got 9"),
        (Sampling(allowed_token_ids=[100]), "allowed_token_ids: expected ids from 0 to 7, got 100"),
        (Sampling(banned_token_ids=range(8)), "banned_token_ids: expected to leave a token, got all 8"),
        (Sampling(logprobs=9), "logprobs: expected at most 8, the size of the vocabulary, got 9"),
    ],
)
def test_tokens_outside_of_the_vocabulary(options, words):
    options.check_vocabulary(101)
    with pytest.raises(InvalidInput, match=words):
        options.check_vocabulary(8)


def test_options_are_gathered_from_one_place():
    assert gather_options(0.5, None, None, 3, None) == Sampling(temperature=0.5, seed=3)
    options = [Sampling(seed=1), Sampling(seed=2)]
    assert gather_options(0.0, None, None, None, options) == tuple(options)
    with pytest.raises(InvalidInput, match="top_k: expected within sampling, since that is given, got 3 beside it"):
        gather_options(0.0, 3, None, None, Sampling())
    with pytest.raises(InvalidInput, match="sampling: expected a Sampling, or one per prompt, got 'warm'"):
        gather_options(0.0, None, None, None, ["warm"])
    with pytest.raises(InvalidInput, match="sampling: expected a Sampling, or one per prompt, got 3"):
        gather_options(0.0, None, None, None, 3)
    assert per_prompt(Sampling(), 3) == (Sampling(),) * 3
    with pytest.raises(InvalidInput, match="sampling: expected one Sampling per prompt, 3, got 2"):
        per_prompt(options, 3)
