"""`BatchSampler`: rows that share nothing but the call, their failures, and log-probabilities."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation import plan
from bitnet_jit.generation.batch_sampler import STEPS_AHEAD, BatchSampler
from bitnet_jit.generation.sampling import Sampling

CPU = torch.device("cpu")
OPTIONS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.none() | st.sampled_from([1, 2, 5, 40, 2000]),
    top_p=st.none() | st.sampled_from([0.1, 0.9, 1.0]),
    min_p=st.none() | st.sampled_from([0.02, 0.3]),
    seed=st.integers(0, 2**63 - 1),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.6]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3]),
    logit_bias=st.none() | st.just({0: 1.5}),
    banned_token_ids=st.sampled_from([(), (1,), (2, 0)]),
    allowed_token_ids=st.none() | st.none() | st.just((0, 1, 2)),
    logprobs=st.none() | st.integers(0, 3),
)
STEPS = 3
PROMPT = [0, 2, 2]


@pytest.fixture(params=["row by row", "together"])
def way(request, monkeypatch):
    """Work on rows one by one, as on the CPU, or together, as on a GPU."""
    if request.param == "together":
        monkeypatch.setattr(plan, "divided", lambda rows, device: [rows] if rows else [])


def run(logits, options, order=None):
    """Run some steps on logits (STEPS, B, V); return each row's tokens and log-probabilities, in the order of rows."""
    sampler = BatchSampler(logits.shape[-1], CPU)
    rows = [sampler.add(item, PROMPT) for item in options]
    order = list(order or range(len(rows)))
    results = [[] for _ in rows]
    for step in range(STEPS):
        choice = sampler.choose(logits[step, order], [rows[row] for row in order], [3 + step + row for row in order])
        sampler.note([rows[row] for row in order], choice.tokens)
        tokens, errors = choice.fetch()
        assert not errors
        for place, row in enumerate(order):
            results[row].append(tokens[place])
            if options[row].logprobs is not None:
                number = options[row].logprobs
                results[row].append(choice.logprobs.chosen[place].item())
                results[row].append(choice.logprobs.token_ids[place, :number].tolist())
                results[row].append(choice.logprobs.values[place, :number].tolist())
    return results


def row_alone(logits, options, row):
    """Return what a row gets by itself, at the same positions."""
    sampler = BatchSampler(logits.shape[-1], CPU)
    (number,) = [sampler.add(options[row], PROMPT)]
    results = []
    for step in range(STEPS):
        choice = sampler.choose(logits[step, row : row + 1], [number], [3 + step + row])
        sampler.note([number], choice.tokens)
        results.append(choice.tokens.item())
        if choice.logprobs is not None:
            results += [choice.logprobs.chosen.item(), choice.logprobs.token_ids[0].tolist()]
            results.append(choice.logprobs.values[0].tolist())
    return results


def draw_logits(seed, rows, size):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(STEPS, rows, size, generator=generator) * 3
    return logits.round() if seed % 3 == 0 else logits  # many ties


@pytest.mark.usefixtures("way")
@given(
    options=st.lists(OPTIONS, min_size=1, max_size=6),
    size=st.sampled_from([3, 17, 33, 1031, 4111]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_row_alone_is_a_row_among_others(options, size, seed):
    logits = draw_logits(seed, len(options), size)
    options = [Sampling(**{**vars(item), "top_k": item.top_k and min(item.top_k, size)}) for item in options]
    together = run(logits, options)
    assert together == [row_alone(logits, options, row) for row in range(len(options))]
    order = list(range(len(options)))
    random.Random(seed).shuffle(order)
    assert run(logits, options, order) == together


def mixed_options(number):
    """Return options of many kinds, the same each time."""
    kinds = [
        Sampling(temperature=1.0, seed=1),
        Sampling(),
        Sampling(temperature=0.7, top_k=50, top_p=0.9, seed=2, logprobs=2),
        Sampling(temperature=2.0, top_p=0.95, seed=3),
        Sampling(temperature=1.5, min_p=0.05, seed=4, repetition_penalty=1.2),
        Sampling(frequency_penalty=0.5, logprobs=0),
        Sampling(temperature=1.0, top_k=4, seed=5, banned_token_ids=[0, 3], logit_bias={1: 3.0}),
        Sampling(temperature=3.0, top_k=2000, top_p=0.9, seed=6),
    ]
    return [kinds[row % len(kinds)] for row in range(number)]


@pytest.mark.usefixtures("way")
def test_a_row_alone_is_a_row_among_63_others():
    logits, options = draw_logits(1, 64, 4111), mixed_options(64)
    together = run(logits, options)
    assert together == [row_alone(logits, options, row) for row in range(64)]


def test_both_ways_give_the_same_tokens(monkeypatch):
    logits, options = draw_logits(2, 64, 4111), mixed_options(64)
    row_by_row = run(logits, options)
    monkeypatch.setattr(plan, "divided", lambda rows, device: [rows] if rows else [])
    assert run(logits, options) == row_by_row


def test_the_global_random_state_plays_no_part():
    logits, options = draw_logits(4, 7, 33), mixed_options(7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(logits, options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert run(logits, options) == first


def test_a_draw_belongs_to_its_seed_and_position():
    sampler = BatchSampler(1000, CPU)
    rows = [sampler.add(Sampling(temperature=1.0, seed=seed), []) for seed in (5, 5, 6)]
    logits = torch.zeros(3, 1000)
    steps = [0, 1, 2, STEPS_AHEAD, STEPS_AHEAD - 1, 3 * STEPS_AHEAD, 0, 1]  # in any order, also backwards
    tokens = [sampler.choose(logits, rows, [step] * 3).fetch()[0] for step in steps]
    assert all(first == second for first, second, _ in tokens)
    assert tokens[0] == tokens[6]
    assert tokens[1] == tokens[7]
    assert len({first for first, _, _ in tokens}) == 6
    assert [first for first, _, _ in tokens] != [other for _, _, other in tokens]
    one_call = sampler.choose(torch.zeros(4, 1000), [rows[0]] * 4, [0, 1, 2, STEPS_AHEAD])  # drafted tokens
    assert one_call.fetch()[0] == [first for first, _, _ in tokens[:4]]


def test_a_seed_that_was_not_given_can_be_read():
    sampler = BatchSampler(1000, CPU)
    first, second = (sampler.add(Sampling(temperature=1.0), []) for _ in range(2))
    assert sampler.options(first).seed != sampler.options(second).seed
    again = sampler.add(sampler.options(first), [])
    logits = torch.zeros(1, 1000)
    tokens = [[sampler.choose(logits, [row], [p]).fetch()[0][0] for p in range(20)] for row in (first, again, second)]
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("damage", [math.nan, math.inf, "all -inf"])
def test_a_damaged_row_is_its_own_error(damage):
    logits, options = draw_logits(5, 14, 1031)[0], mixed_options(14)
    for damaged_row in range(14):
        damaged = logits.clone()
        if damage == "all -inf":
            damaged[damaged_row] = -math.inf
        else:
            damaged[damaged_row, 77] = damage
        results = []
        for values in (logits, damaged):
            sampler = BatchSampler(1031, CPU)
            rows = [sampler.add(item, PROMPT) for item in options]
            results.append(sampler.choose(values, rows, [5] * 14))
        (expected, nothing), (tokens, errors) = (choice.fetch() for choice in results)
        assert nothing == {}
        assert list(errors) == [damaged_row]
        assert "NaN or infinite" in errors[damaged_row]
        assert tokens[:damaged_row] + tokens[damaged_row + 1 :] == expected[:damaged_row] + expected[damaged_row + 1 :]
        assert results[1].ok.tolist() == [row != damaged_row for row in range(14)]
        assert ((results[1].tokens >= 0) & (results[1].tokens < 1031)).all()


def test_minus_infinity_of_some_tokens_is_fine():
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.0]] * 3)
    sampler = BatchSampler(4, CPU)
    rows = [
        sampler.add(Sampling(temperature, top_p=p, seed=0), []) for temperature, p in ((0, None), (9, None), (9, 0.99))
    ]
    chosen = {token for step in range(40) for token in sampler.choose(logits, rows, [step] * 3).fetch()[0]}
    assert chosen == {1, 3}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_token_left_is_its_own_error(temperature):
    logits = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]] * 3)
    sampler = BatchSampler(4, CPU)
    kinds = [
        Sampling(temperature, seed=1),
        Sampling(temperature, seed=1, banned_token_ids=[0, 1]),
        Sampling(temperature, seed=1, allowed_token_ids=[0]),
    ]
    choice = sampler.choose(logits, [sampler.add(item, []) for item in kinds], [0, 0, 0])
    tokens, errors = choice.fetch()
    assert tokens[0] in (0, 1)
    assert tokens[1] < 0
    assert tokens[2] == 0
    assert list(errors) == [1]
    assert "the options leave no token" in errors[1]
    assert choice.damaged.tolist() == [False] * 3


def test_a_penalty_that_overflows_is_the_options_error():
    sampler = BatchSampler(3, CPU)
    rows = [sampler.add(Sampling(repetition_penalty=1e-38), [1]), sampler.add(Sampling(), [])]
    _, errors = sampler.choose(torch.tensor([[0.0, 1e10, 1.0]] * 2), rows, [1, 1]).fetch()
    assert list(errors) == [0]
    assert "a penalty or a bias made a logit infinite" in errors[0]


@pytest.mark.usefixtures("way")
def test_ties_go_to_the_lowest_id():
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, -0.0, 0.0, -1.0], [-0.0, 0.0, 0.0, 0.0]])
    sampler = BatchSampler(4, CPU)
    rows = [sampler.add(Sampling(), []) for _ in range(3)]
    assert sampler.choose(logits, rows, [0] * 3).fetch()[0] == [1, 0, 0]
    rows = [sampler.add(Sampling(5.0, top_k=1, seed=seed), []) for seed in range(3)]
    assert sampler.choose(logits, rows, [0] * 3).fetch()[0] == [1, 0, 0]
    rows = [sampler.add(Sampling(banned_token_ids=[row]), []) for row in (1, 0, 2)]
    assert sampler.choose(logits, rows, [0] * 3).fetch()[0] == [2, 1, 0]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [3, 257, 20_011])
def test_log_probabilities_are_the_models(size):
    logits = torch.randn(6, size, generator=torch.Generator().manual_seed(3)) * 4
    sampler = BatchSampler(size, CPU)
    numbers = [None, 0, 1, 3, 2, None]
    rows = [
        sampler.add(Sampling(temperature=3.0, top_k=2, seed=row, banned_token_ids=[0], logprobs=number), [])
        for row, number in enumerate(numbers)
    ]
    choice = sampler.choose(logits, rows, [0] * 6)
    expected = logits.double().log_softmax(-1)
    for row, number in enumerate(numbers):
        chosen, ids, values = (tensor[row] for tensor in vars(choice.logprobs).values())
        if number is None:
            assert chosen.isnan()
            assert (ids == -1).all()
            continue
        assert chosen.item() == pytest.approx(expected[row, choice.tokens[row]].item(), abs=2e-5)
        best = expected[row].topk(number)
        assert ids.tolist() == best.indices.tolist() + [-1] * (3 - number)
        assert values[:number].double() == pytest.approx(best.values, abs=2e-5)
        assert values[number:].isnan().all()


def test_nothing_waits_for_the_device():
    """Tensors on "meta" have no values, so that whatever asks for one fails."""
    sampler = BatchSampler(4111, torch.device("meta"))
    rows = [sampler.add(item, PROMPT) for item in mixed_options(14)]
    for step in range(3):
        choice = sampler.choose(torch.empty(14, 4111, device="meta"), rows, [3 + step] * 14)
        sampler.note(rows, choice.tokens)
    assert (choice.tokens.shape, choice.ok.shape, choice.logprobs.values.shape) == ((14,), (14,), (14, 2))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        choice.fetch()


def test_logits_are_not_changed():
    logits = draw_logits(8, 14, 33)[0]
    before = logits.clone()
    sampler = BatchSampler(33, CPU)
    rows = [sampler.add(item, PROMPT) for item in mixed_options(14)]
    sampler.note(rows, sampler.choose(logits, rows, [3] * 14).tokens)
    sampler.choose(logits, rows, [4] * 14)
    assert torch.equal(logits, before)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 2**32 - 1))
def test_rows_come_and_go(moves, seed):
    """Rows that were given back are used again, with nothing left of the request before."""
    sampler, running = BatchSampler(17, CPU), {}
    logits = draw_logits(seed, 1, 17)[0]
    for move, kind in enumerate(moves):
        if len(running) < 4:
            row = sampler.add(mixed_options(7)[kind], [move % 17])
            assert row not in running
            running[row] = (kind, [move % 17], [])
        else:
            row = sorted(running)[kind % len(running)]
            sampler.remove(row)
            del running[row]
        rows = list(running)
        if not rows:
            continue
        positions = [len(prompt) + len(output) for _, prompt, output in running.values()]
        tokens, _ = sampler.choose(logits.expand(len(rows), 17), rows, positions).fetch()
        sampler.note(rows, torch.tensor(tokens))
        for token, (_, _, output) in zip(tokens, running.values(), strict=True):
            output.append(token)
    for kind, prompt, output in running.values():
        fresh = BatchSampler(17, CPU)
        row = fresh.add(mixed_options(7)[kind], prompt)
        for place, token in enumerate(output):
            choice = fresh.choose(logits, [row], [1 + place])
            assert choice.tokens.tolist() == [token]
            fresh.note([row], choice.tokens)


def test_bad_arguments_are_named():
    sampler = BatchSampler(8, CPU)
    row = sampler.add(Sampling(), [1])
    good = torch.zeros(1, 8)
    with pytest.raises(InvalidInput, match=r"logits: expected float32 \(1, 8\), got torch.float64 \(1, 8\)"):
        sampler.choose(good.double(), [row], [0])
    with pytest.raises(InvalidInput, match=r"logits: expected float32 \(2, 8\), got torch.float32 \(1, 8\)"):
        sampler.choose(good, [row, row], [0, 1])
    with pytest.raises(InvalidInput, match=r"positions: expected 1, of at least 0, got \[-1\]"):
        sampler.choose(good, [row], [-1])
    with pytest.raises(InvalidInput, match=r"positions: expected 1, of at least 0, got \[1, 2\]"):
        sampler.choose(good, [row], [1, 2])
    with pytest.raises(InvalidInput, match="row: expected one that was added and not removed, got 5"):
        sampler.choose(good, [5], [0])
    with pytest.raises(InvalidInput, match="prompt: expected ids from 0 to 7, got 8"):
        sampler.add(Sampling(), [1, 8])
    with pytest.raises(InvalidInput, match="prompt: expected ids from 0 to 7, got 'a'"):
        sampler.add(Sampling(), [1, "a"])
    with pytest.raises(InvalidInput, match="banned_token_ids: expected ids from 0 to 7, got 9"):
        sampler.add(Sampling(banned_token_ids=[9]), [])
    with pytest.raises(InvalidInput, match="vocab_size: expected at most 1048575, got 1048576"):
        BatchSampler(2**20, CPU)
    sampler.remove(row)
    for call in (sampler.remove, sampler.options):
        with pytest.raises(InvalidInput, match="row: expected one that was added"):
            call(row)
    assert sampler.choose(torch.zeros(0, 8), [], []).fetch() == ([], {})
