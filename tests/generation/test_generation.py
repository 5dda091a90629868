"""Continuations of prompts: caches, batches, ends, seeds, and arguments out of range."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import bitnet_jit
from bitnet_jit.errors import BitNetError, InvalidInput
from bitnet_jit.generation.sampling import Sampling

PROMPT = list(b"And it came to pass ")


def test_cached_logits_are_uncached_ones(tiny):
    ids = torch.tensor(PROMPT + list(b"after the manner"))[None]
    whole = tiny(ids)
    for pieces in ([1] * ids.shape[1], [20, 1, 1, 14], [5, 7, 24]):
        cache = tiny.new_cache()
        steps = torch.cat([tiny(part, cache) for part in ids.split(pieces, 1)], 1)
        assert cache.length == ids.shape[1]
        assert torch.equal(steps, whole)


def test_copies_and_state_dicts(tiny):
    copied = copy.deepcopy(tiny)
    assert copied.generate(PROMPT, max_new_tokens=5).tolist() == tiny.generate(PROMPT, max_new_tokens=5).tolist()
    state = tiny.state_dict()
    for parameter in copied.parameters():
        parameter.zero_()
    copied.load_state_dict(state)
    assert torch.equal(copied(PROMPT), tiny(PROMPT))


def test_threads_generate_at_once(tiny):
    expected = tiny.generate(PROMPT, max_new_tokens=16).tolist()
    with ThreadPoolExecutor(4) as pool:
        continuations = list(pool.map(lambda _: tiny.generate(PROMPT, max_new_tokens=16).tolist(), range(8)))
    assert continuations == [expected] * 8


def test_a_small_cache_grows(tiny):
    ids = torch.tensor(PROMPT * 5)[None]
    cache = tiny.new_cache(capacity=1)
    assert cache.capacity == 64
    steps = torch.cat([tiny(part, cache) for part in ids.split(30, 1)], 1)
    assert (cache.length, cache.capacity) == (100, 128)
    roomy = tiny.new_cache(capacity=100)
    assert torch.equal(steps, torch.cat([tiny(part, roomy) for part in ids.split(30, 1)], 1))


def test_rows_of_a_batch_are_continued_as_if_alone(tiny):
    prompts = [list(b"And it came to pass "), list(b"In the beginning God"), list(b"For he said unto the")]
    together = tiny.generate(prompts, max_new_tokens=12)
    assert together.shape == (3, 32)
    for row, prompt in zip(together, prompts, strict=True):
        alone = tiny.generate(prompt, max_new_tokens=12)
        assert alone.dim() == 1
        assert alone.tolist() == row.tolist()


@pytest.mark.parametrize(
    "kind",
    [list, tuple, torch.tensor, lambda ids: list(np.array(ids)), lambda ids: torch.tensor(ids, dtype=torch.uint8)],
)
def test_prompts_of_every_kind(tiny, kind):
    expected = tiny.generate(torch.tensor([PROMPT]), max_new_tokens=3)
    tokens = tiny.generate(kind(PROMPT), max_new_tokens=3)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == expected[0].tolist()


def test_stream_gives_the_tokens_of_generate(tiny):
    expected = tiny.generate(PROMPT, max_new_tokens=10)[len(PROMPT) :]
    assert list(tiny.stream(PROMPT, max_new_tokens=10)) == expected.tolist()


def text(tiny, **options) -> bytes:
    return bytes(tiny.generate(PROMPT, max_new_tokens=30, **options).tolist()[len(PROMPT) :])


def test_stop_tokens_and_strings(tiny):
    assert text(tiny) == b"after the days of Abraham, tha"
    assert text(tiny, stop=ord("d")) == b"after the d"
    assert text(tiny, stop="ter") == b"after"
    assert text(tiny, stop=["xyz", " d", ord("t")]) == b"aft"
    assert bytes(tiny.stream(PROMPT, stop="e d")) == b"after the d"


def test_a_row_that_ended_is_filled_up(tiny):
    prompts = [PROMPT, list(b"In the beginning God")]
    rows = tiny.generate(prompts, max_new_tokens=30, stop="after").tolist()
    assert bytes(rows[0][20:]) == b"after" + b"r" * (len(rows[0]) - 25)
    assert b"after" not in bytes(rows[1][20:-1])


def test_the_end_token_ends_a_text(write_checkpoint):
    decoder = bitnet_jit.load(write_checkpoint())
    first = int(decoder.generate([1, 2, 3], max_new_tokens=1)[-1])
    ended = bitnet_jit.load(write_checkpoint(name="ended", eos_token_id=[9, first]))
    assert ended.generate([1, 2, 3], max_new_tokens=8).tolist() == [1, 2, 3, first]
    assert list(ended.stream([1, 2, 3], max_new_tokens=8)) == [first]


def test_seeds_repeat_and_leave_the_global_random_state_alone(tiny):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (text(tiny, temperature=1.0, seed=seed) for seed in (3, 3, 4))
    unseeded = {text(tiny, temperature=1.5) for _ in range(3)}
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again != other
    assert len(unseeded) == 3
    torch.manual_seed(6)
    assert text(tiny, temperature=1.0, seed=3) == first


def test_a_prompt_is_continued_as_if_alone_whatever_its_options(tiny):
    prompts = [list(b"And it came to pass "), list(b"In the beginning God"), list(b"And it came to pass ")]
    options = [
        Sampling(temperature=1.0, seed=3),
        Sampling(repetition_penalty=1.3, frequency_penalty=0.2),
        Sampling(temperature=0.8, top_k=20, top_p=0.9, seed=4, presence_penalty=0.5, banned_token_ids=list(b"e")),
    ]
    together = tiny.generate(prompts, max_new_tokens=12, stop=[], sampling=options).tolist()
    for row, prompt, item in zip(together, prompts, options, strict=True):
        assert tiny.generate(prompt, max_new_tokens=12, stop=[], sampling=item).tolist() == row
        assert list(tiny.stream(prompt, max_new_tokens=12, stop=[], sampling=item)) == row[20:]
    assert not set(b"e") & set(together[2][20:])
    same = tiny.generate(prompts, max_new_tokens=12, temperature=1.0, seed=3)
    assert same[0].tolist() == same[2].tolist() == together[0]


def test_an_allowed_token_alone_is_forced(tiny):
    assert text(tiny, sampling=Sampling(allowed_token_ids=[ord("x")])) == b"x" * 30
    assert set(text(tiny, sampling=Sampling(temperature=1.0, allowed_token_ids=list(b"ab")))) == set(b"ab")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_named_with_their_prompt(tiny, temperature):
    damaged = copy.deepcopy(tiny)
    project = damaged.logits

    def logits(hidden):
        result = project(hidden)
        result[1:2, 5] = float("nan")
        return result

    damaged.logits = logits
    options = {"max_new_tokens": 3, "temperature": temperature}
    with pytest.raises(BitNetError, match="prompt 1: the model computed logits that are NaN or infinite"):
        damaged.generate([PROMPT, PROMPT], **options)
    assert damaged.generate(PROMPT, **options).shape == (23,)


def test_narrow_sampling_is_greedy(tiny):
    greedy = text(tiny)
    assert text(tiny, temperature=2.0, top_k=1, seed=0) == greedy
    assert text(tiny, temperature=2.0, top_p=1e-9, seed=0) == greedy
    assert text(tiny, temperature=1e-300, seed=0) == greedy


BAD = {
    "empty": ({"input_ids": []}, "input_ids: expected at least one token"),
    "empty rows": ({"input_ids": [[], []]}, "input_ids: expected at least one token"),
    "empty batch": ({"input_ids": torch.zeros(0, 4, dtype=torch.int64)}, "input_ids: expected at least one token"),
    "mixed": ({"input_ids": [[1], 2]}, r"input_ids: expected whole numbers, got \[1\]"),
    "deep": ({"input_ids": [[[1]]]}, r"input_ids: expected whole numbers, got \[1\]"),
    "text": ({"input_ids": "In the"}, "input_ids: expected a tensor or lists of integers, got str"),
    "words": ({"input_ids": ["a"]}, "input_ids: expected whole numbers, got 'a'"),
    "floats": ({"input_ids": torch.ones(3)}, "input_ids: expected integers .* got torch.float32"),
    "scalar": ({"input_ids": torch.tensor(3)}, r"input_ids: expected integers \(T,\) or \(B, T\)"),
    "range": ({"input_ids": [1, 256]}, "input_ids: expected ids from 0 to 255, got 256"),
    "negative": ({"input_ids": [1, -1]}, "input_ids: expected ids from 0 to 255, got -1"),
    "long": ({"input_ids": [1] * 1025}, "input_ids: 1025 tokens, .* room for 1024"),
    "full": ({"input_ids": [1] * 1020, "max_new_tokens": 5}, "max_new_tokens: expected 1 to 4, .* got 5"),
    "none": ({"max_new_tokens": 0}, "max_new_tokens: expected 1 to 1004, .* got 0"),
    "no room": (
        {"input_ids": [1] * 1024},
        "input_ids: a prompt of 1024 tokens fills the model's context of 1024, so that no token",
    ),
    "half": ({"max_new_tokens": 2.5}, "max_new_tokens: .* got 2.5"),
    "cold": ({"temperature": -1.0}, "temperature: .* got -1.0"),
    "nan": ({"temperature": float("nan")}, "temperature: .* got nan"),
    "hot": ({"temperature": float("inf")}, "temperature: .* got inf"),
    "word": ({"temperature": "1"}, "temperature: .* got '1'"),
    "top_k": ({"top_k": 0}, "top_k: .* got 0"),
    "top_k half": ({"top_k": 1.5}, "top_k: .* got 1.5"),
    "top_p zero": ({"top_p": 0.0}, "top_p: .* got 0.0"),
    "top_p": ({"top_p": 1.5}, "top_p: .* got 1.5"),
    "seed": ({"seed": -1}, "seed: .* got -1"),
    "both": ({"temperature": 0.5, "sampling": Sampling()}, "temperature: expected within sampling, .* got 0.5 beside"),
    "sampling": ({"sampling": 3}, "sampling: expected a Sampling, or one per prompt, got 3"),
    "several": ({"sampling": [Sampling(), Sampling()]}, "sampling: expected one Sampling per prompt, 1, got 2"),
    "banned": ({"sampling": Sampling(banned_token_ids=[256])}, "banned_token_ids: expected ids from 0 to 255, got 256"),
    "logprobs": ({"sampling": Sampling(logprobs=2)}, "logprobs: expected None, since tokens alone are returned, got 2"),
    "no stop": ({"stop": None}, "stop: expected token ids and strings, got None"),
    "stop": ({"stop": [1.5]}, "stop: expected token ids and strings, got 1.5"),
    "empty stop": ({"stop": ""}, "stop: expected strings of at least one character"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_bad_arguments_are_named_at_the_call(tiny, method, case):
    options, words = BAD[case]
    with pytest.raises(InvalidInput, match=words):
        getattr(tiny, method)(**{"input_ids": PROMPT, **options})


def test_stream_takes_one_prompt(tiny):
    with pytest.raises(InvalidInput, match="stream takes one prompt, got a batch of 2"):
        tiny.stream([[1], [2]])


def test_without_a_number_the_context_is_the_end(write_checkpoint, tiny):
    decoder = bitnet_jit.load(write_checkpoint(eos_token_id=None))
    assert decoder.generate([1, 2]).shape == (64,)
    assert len(tiny.generate([*b"Selah"], stop=[])) == 5 + 128


def test_a_stop_string_needs_a_tokenizer(write_checkpoint):
    decoder = bitnet_jit.load(write_checkpoint(vocab_size=300))
    assert decoder.tokenizer is None
    with pytest.raises(InvalidInput, match="stop: the string 'x' needs a tokenizer"):
        decoder.generate([1, 2], stop="x")


def test_forward_takes_prompts_of_one_length(tiny):
    with pytest.raises(InvalidInput, match="one length, got 1, 2"):
        tiny([[1, 2], [3]])


def test_forward_checks_its_room(tiny):
    cache = tiny.new_cache(batch_size=2)
    with pytest.raises(InvalidInput, match="cache: is for 2 prompts, input_ids has 1"):
        tiny([1, 2], cache)
    cache = tiny.new_cache()
    tiny([1] * 1000, cache)
    with pytest.raises(InvalidInput, match="25 tokens, but the model's context has room for 24"):
        tiny([1] * 25, cache)
    assert tiny([1] * 24, cache).shape == (1, 24, 256)
    assert cache.capacity == 1024


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda decoder: pickle.loads(pickle.dumps(decoder))])
def test_a_copied_and_a_pickled_decoder_continue_alike(tiny, copied):
    expected = tiny.generate(PROMPT, max_new_tokens=8)
    assert type(copied(tiny)) is type(tiny)
    assert torch.equal(copied(tiny).generate(PROMPT, max_new_tokens=8), expected)
