"""Sampling on a GPU: the CPU's random bits and orders, rows that share nothing, and no waiting for the device."""

from dataclasses import replace

import pytest
import torch

import bitnet_jit
from bitnet_jit.generation.batch_sampler import BatchSampler
from bitnet_jit.generation.largest import largest
from bitnet_jit.generation.order import likeliest
from bitnet_jit.generation.random_bits import random_words
from bitnet_jit.generation.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device"),
]

KINDS = [
    Sampling(temperature=1.0, seed=1),
    Sampling(),
    Sampling(temperature=0.7, top_k=50, top_p=0.9, seed=2, logprobs=2),
    Sampling(temperature=2.0, top_p=0.95, seed=3),
    Sampling(temperature=1.0, top_k=2000, seed=6),
    Sampling(temperature=1.5, min_p=0.05, seed=4, repetition_penalty=1.2),
    Sampling(frequency_penalty=0.5, presence_penalty=0.1, logprobs=0),
    Sampling(temperature=1.0, top_k=4, seed=5, banned_token_ids=[0, 3], logit_bias={1: 3.0}),
    Sampling(temperature=1.0, seed=7, allowed_token_ids=[5, 6, 7]),
]
PROMPT = [0, 2, 2]


def draw_logits(rows, size):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows)).mul(3).cuda()


@pytest.mark.parametrize("size", [33, 4111, 128_256])
@pytest.mark.parametrize("number", [1, 50, 1024])
def test_order_and_bits_are_those_of_the_cpu(size, number):
    rows = draw_logits(3, size).round()
    values, ids = likeliest(rows, min(number, size))
    expected_values, expected = likeliest(rows.cpu(), min(number, size))
    assert torch.equal(ids.cpu(), expected)
    assert torch.equal(values.cpu(), expected_values)
    assert torch.equal(largest(rows)[1].cpu(), largest(rows.cpu())[1])
    seeds, positions = torch.randint(2**62, (5, 1)), torch.arange(7)[None]
    assert torch.equal(random_words(seeds.cuda(), positions.cuda()).cpu(), random_words(seeds, positions))


def results_of(choice, place):
    """Return all numbers of one row as they are, NaN included."""
    logprobs = choice.logprobs
    tensors = (choice.tokens, logprobs.chosen, logprobs.token_ids, logprobs.values) if logprobs else (choice.tokens,)
    return [repr(tensor[place].tolist()) for tensor in tensors]


@pytest.mark.parametrize("size", [33, 4111, 128_256])
def test_a_row_alone_is_a_row_among_63_others(size):
    logits, options = draw_logits(64, size), [KINDS[row % len(KINDS)] for row in range(64)]
    options = [
        Sampling(**{**vars(item), "top_k": item.top_k and min(item.top_k, size), "logprobs": 2}) for item in options
    ]
    sampler = BatchSampler(size, logits.device)
    rows = [sampler.add(item, PROMPT) for item in options]
    others = [sampler.add(item, PROMPT) for item in options]
    for step in range(3):
        choice = sampler.choose(logits, rows, [3 + step] * 64)
        for row in range(64):
            alone = sampler.choose(logits[row : row + 1], [others[row]], [3 + step])
            assert results_of(alone, 0) == results_of(choice, row), (step, options[row])
        sampler.note(rows, choice.tokens)
        sampler.note(others, choice.tokens)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_nothing_waits_for_the_device():
    logits = draw_logits(len(KINDS), 4111)
    sampler = BatchSampler(4111, logits.device)
    rows = [sampler.add(item, PROMPT) for item in KINDS]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            choice = sampler.choose(logits, rows, [3 + step] * len(rows))
            sampler.note(rows, choice.tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert choice.fetch()[1] == {}


def test_a_damaged_row_is_its_own_error():
    logits = draw_logits(len(KINDS), 4111)
    damaged = logits.clone()
    damaged[4, 7] = float("nan")
    tokens = []
    for values in (logits, damaged):
        sampler = BatchSampler(4111, logits.device)
        rows = [sampler.add(item, PROMPT) for item in KINDS]
        tokens.append(sampler.choose(values, rows, [3] * len(rows)).fetch())
    (expected, _), (result, errors) = tokens
    assert list(errors) == [4]
    assert result[:4] + result[5:] == expected[:4] + expected[5:]


@pytest.mark.parametrize("head", ["checkpoint", "int8"])
@pytest.mark.parametrize("kinds", [[Sampling()], KINDS[:3] + KINDS[5:8]], ids=["greedy", "mixed"])
def test_texts_together_are_texts_alone(head, kinds):
    """By graphs that raise positions themselves: pages begin, and rows leave one by one."""
    decoder = bitnet_jit.load(device="cuda", head=head)
    prompts = [list(b"And it came to pass " * (1 + row)) for row in range(6)]
    options = [replace(kinds[row % len(kinds)], logprobs=None) for row in range(6)]
    rows = list(zip(prompts, options, strict=True))
    alone = [decoder.generate([prompt], max_new_tokens=80, sampling=one)[0].tolist() for prompt, one in rows]
    stop = [text[len(prompt) + 33] for text, prompt in zip(alone, prompts, strict=True)]
    ended = [decoder.generate([prompt], max_new_tokens=80, sampling=one, stop=stop)[0].tolist() for prompt, one in rows]
    assert [row.tolist() for row in decoder.generate(prompts, max_new_tokens=80, sampling=options)] == alone
    together = decoder.generate(prompts, max_new_tokens=80, sampling=options, stop=stop)
    assert [row.tolist() for row in together] == ended


@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")  # torch 2.11, of the one cycle there is
def test_a_greedy_token_costs_a_replay_and_the_copy_of_its_code():
    decoder = bitnet_jit.load(device="cuda", head="int8")
    copies = []
    for tokens in (20, 40):  # within a page
        decoder.generate([list(b"For")], max_new_tokens=tokens)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            decoder.generate([list(b"For")], max_new_tokens=tokens)
            torch.cuda.synchronize()
        copies.append(sum(event.count for event in profile.key_averages() if event.key.startswith("Memcpy")))
    assert copies[1] - copies[0] == 20
