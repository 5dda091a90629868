"""The text of a prompt is the same, token for token: speculated or not, alone or among 63 others with other options."""

import dataclasses
import random

import pytest

from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.speculation import Speculation

BATCH = 64
KINDS = [
    Sampling(1.0, seed=11),
    Sampling(0.7, top_k=40, seed=12),
    Sampling(0.9, top_p=0.95, seed=13),
    Sampling(1.3, min_p=0.02, seed=2**62),
    Sampling(0.8, seed=14, repetition_penalty=1.1),
]


@pytest.fixture(scope="module")
def text(kjv):
    """The held-out text of the embedded model as one list of bytes."""
    return kjv.flatten().tolist()


@pytest.fixture(scope="module")
def draft(tiny):
    """The first half of the embedded model's blocks: right now and then."""
    config = dataclasses.replace(tiny.config, num_layers=tiny.config.num_layers // 2)
    return Decoder(config, tiny.embedding, list(tiny.blocks)[: config.num_layers], tiny.norm)


def drawn_prompts(text, number, seed):
    """Return prompts of 1 to 90 tokens: cut from a text, and every fifth one of any bytes."""
    chance, prompts = random.Random(seed), []
    for index in range(number):
        length = chance.randint(1, 90)
        start = chance.randrange(len(text) - length)
        prompts.append(chance.choices(range(256), k=length) if index % 5 == 4 else text[start : start + length])
    return prompts


def lists(texts):
    return [row.tolist() for row in texts]


def check_speculation(decoder, draft, prompts, chance):
    """Compare texts with guesses and without, greedy and drawn, in batches of any size."""
    speculation = Speculation(draft, max_tokens=8)
    while prompts:
        size = min(chance.randint(1, 24), len(prompts))
        batch, prompts = prompts[:size], prompts[size:]
        for sampling in (Sampling(), [chance.choice(KINDS) for _ in batch]):
            options = {"max_new_tokens": chance.randint(1, 40), "sampling": sampling, "stop": chance.choice(("\n", ()))}
            plain = lists(decoder.generate(batch, **options))
            assert lists(decoder.generate(batch, **options, speculate=speculation)) == plain
    assert 0 < speculation.accepted < speculation.drafted


@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_speculation_leaves_texts_as_they_are(tiny, draft, text, kind):
    check_speculation(tiny, "ngram" if kind == "ngram" else draft, drawn_prompts(text, 8, 1), random.Random(1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_speculation_leaves_200_texts_as_they_are(tiny, draft, text, kind):
    check_speculation(tiny, "ngram" if kind == "ngram" else draft, drawn_prompts(text, 200, 2), random.Random(2))


def drawn_options(chance):
    """Return options of any kind, with a seed."""
    penalties = chance.random() < 0.4
    return Sampling(
        chance.choice((0.0, 0.6, 1.0, 1.7)),
        top_k=chance.choice((None, 1, 5, 60)),
        top_p=chance.choice((None, 0.5, 0.9)),
        seed=chance.randrange(2**63),
        min_p=chance.choice((None, None, 0.05)),
        repetition_penalty=chance.choice((0.8, 1.2)) if penalties else 1.0,
        presence_penalty=chance.uniform(-1, 1) if penalties else 0.0,
        frequency_penalty=chance.uniform(-0.5, 0.5) if penalties else 0.0,
        logit_bias={chance.randrange(256): chance.uniform(-5, 5)} if chance.random() < 0.2 else None,
        banned_token_ids=chance.sample(range(256), 3) if chance.random() < 0.2 else (),
    )


def check_seeds(decoder, text, tokens, compared, seed):
    """Compare rows of a full batch with the same prompts alone."""
    chance, prompts = random.Random(seed), drawn_prompts(text, BATCH, seed)
    options = [drawn_options(chance) for _ in prompts]
    together = lists(decoder.generate(prompts, max_new_tokens=tokens, sampling=options))
    for row in chance.sample(range(BATCH), compared):
        alone = decoder.generate(prompts[row], max_new_tokens=tokens, sampling=options[row]).tolist()
        assert together[row] == alone


def test_seeds_give_the_same_text_alone_and_among_63_others(tiny, text):
    check_seeds(tiny, text, tokens=16, compared=8, seed=3)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(4, 8))
def test_seeds_give_the_same_text_in_whole_batches(tiny, text, seed):
    check_seeds(tiny, text, tokens=100, compared=BATCH, seed=seed)
