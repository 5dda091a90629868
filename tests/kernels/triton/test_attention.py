"""Paged attention by the plain kernel: all ways to split tokens among programs, and what must not be seen."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_calls import Heads, arguments, attend, attend_by_torch, draw, problem_of, whole
from triton_calls import DEVICE, ON_GPU, needs_device

from bitnet_jit.kernels.triton.attention import paged
from bitnet_jit.kernels.triton.attention.paged import AttentionConfig

pytestmark = needs_device
SMALL = Heads(4, 2, 32)
HALVES = [torch.float16, torch.bfloat16] if ON_GPU else [torch.float16]  # the interpreter multiplies no bfloat16
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
WAYS = {  # few tokens per sequence are split, full multiprocessors are not, programs per multiprocessor
    "pieces": {"FEW_TOKENS": 1000, "FULL": 1000, "PROGRAMS": 1000},
    "pieces in turns": {"FEW_TOKENS": 1000, "FULL": 1000, "PROGRAMS": 0},
    "small tiles": {"FEW_TOKENS": 1000, "FULL": 0},
    "large tiles": {"FEW_TOKENS": 0},
}
most = settings.default.max_examples
few, some = (
    settings(max_examples=min(most, 2)),
    settings(max_examples=min(most, 10)),
)  # an interpreted call takes a second
counts = st.lists(
    st.tuples(st.sampled_from([0, 3, 63, 64, 65]), st.sampled_from([1, 2, 5, 17])), min_size=1, max_size=2
)


def go(monkeypatch, way):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(paged, name, value)


def check(sequences, padding=0):
    """Compare a call with all tokens with the plain kernel's: y as near as dtypes are, the cache to the bit."""
    plain = sequences.clone()
    wanted = attend_by_torch(arguments(plain, whole(plain), padding))
    y = attend(arguments(sequences, whole(sequences), padding))
    tolerance = TOLERANCE[max((sequences.heads.dtype, sequences.heads.cache), key=TOLERANCE.get)]
    torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance)
    assert not y[len(y) - padding :].any()
    for a, b in ((sequences.keys, plain.keys), (sequences.values, plain.values)):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    return y


@pytest.mark.parametrize("way", WAYS)
@few
@given(counts=counts, padding=st.sampled_from([0, 1, 9]))
def test_a_mix_of_sequences(way, counts, padding):
    with pytest.MonkeyPatch.context() as patch:
        go(patch, way)
        check(draw(SMALL, *zip(*counts, strict=True)), padding)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "heads",
    [
        Heads(1, 1, 2),
        Heads(3, 1, 6),
        Heads(5, 5, 20),
        Heads(6, 2, 80),
        Heads(20, 1, 16),
        *(Heads(8, 2, 64, dtype, dtype) for dtype in HALVES),
        Heads(8, 2, 64, torch.float32, torch.float16),
        Heads(8, 2, 64, torch.float16, torch.float32),
    ],
    ids=str,
)
def test_every_kind_of_heads(monkeypatch, way, heads):
    go(monkeypatch, way)
    check(draw(heads, (3, 64), (1, 2)), 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy in the interpreter, of NaN
@pytest.mark.parametrize("way", WAYS)
def test_nan_and_infinity_reach_no_token_before_them_and_no_other_sequence(monkeypatch, way):
    go(monkeypatch, way)
    sequences = draw(SMALL, (3, 60, 0), (4, 8, 2))
    clean = check(sequences.clone())
    sequences.tokens[1][5, -32:] = torch.nan  # a value, of one group
    sequences.tokens[1][6, :32] = torch.inf  # a query
    y = attend(arguments(sequences, whole(sequences)))
    same = (y == clean) | (y.isnan() & clean.isnan())
    hit = torch.zeros_like(same)
    hit[4 + 5 : 4 + 8, 64:] = True
    hit[4 + 6, :32] = True
    assert torch.equal(same, ~hit)
    assert y[hit].isnan().all()


@pytest.mark.parametrize("way", WAYS)
def test_padding_alone_writes_nothing(monkeypatch, way):
    go(monkeypatch, way)
    sequences = draw(SMALL, (3,), (1,))
    before, (qkv, keys, values, rotary, positions, starts, tables, *scales) = (
        sequences.clone(),
        arguments(sequences, [(0, 0, 1)], 3),
    )
    for tokens in (0, 1):  # of the sequence: none, or one that is padding itself
        padded = (
            qkv,
            keys,
            values,
            rotary,
            torch.full_like(positions, -1),
            torch.full_like(starts, 0),
            tables,
            *scales,
        )
        padded[5][1:] = tokens
        assert not attend(padded).any()
    assert torch.equal(keys.nan_to_num(7), before.keys.nan_to_num(7))
    assert torch.equal(values.nan_to_num(7), before.values.nan_to_num(7))


def test_written_tensors_at_odd_addresses_are_written():
    sequences, plain = (draw(SMALL, (3,), (2,)) for _ in range(2))
    odd = torch.empty(sequences.keys.numel() + 1, device=DEVICE)[1:].view_as(sequences.keys).copy_(sequences.keys)
    sequences.keys = odd
    attend(arguments(sequences, whole(sequences)))
    attend(arguments(plain, whole(plain)))
    assert torch.equal(odd.nan_to_num(7), plain.keys.nan_to_num(7))


def test_few_tokens_are_split_and_many_are_not():
    problem = problem_of(arguments(draw(Heads(20, 5, 128), (0,), (1,)), [(0, 0, 1)]))
    for sizes, split in (((1, 1, 64), True), ((8, 1, 64), True), ((9, 1, 64), False), ((16, 16, 64), True)):
        assert paged.is_split(problem, paged.Sizes(*sizes)) is split
    assert not paged.is_split(problem, paged.Sizes(512, 512, 64))  # there are programs enough
    assert not paged.is_split(problem, paged.Sizes(64, 64, 2**20))  # the pieces' results take too much memory


def schedule(seed, lengths):
    """Return calls, lists of parts (sequence, begin, end), that take sequences from their beginning to their end."""
    rng, done, calls = random.Random(seed), [0] * len(lengths), []
    while done != lengths:
        ends = [min(a + rng.choice([0, 1, 1, 1, 2, 5, 16, 40, 200]), b) for a, b in zip(done, lengths, strict=True)]
        call = [(r, a, b) for r, (a, b) in enumerate(zip(done, ends, strict=True)) if a < b]
        calls += [call] if call else []
        done = ends
    return calls


@pytest.mark.skipif(not ON_GPU, reason="products of the interpreter are NumPy's, in an order of its own")
@pytest.mark.parametrize("cache", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(20, 5, 128), (6, 2, 80), (8, 8, 64)], ids=str)
@some
@given(data=st.data())
def test_the_bits_of_a_token_do_not_depend_on_the_schedule(data, shape, cache):
    lengths = data.draw(st.lists(st.sampled_from([1, 7, 70, 150]), min_size=1, max_size=3))
    cached = [data.draw(st.sampled_from([0, 5, 200])) for _ in lengths]
    together = draw(Heads(*shape, cache, cache), cached, lengths)
    apart = together.clone()
    problem = problem_of(arguments(together, whole(together)))
    configs = (*paged.configs(problem)[:2], AttentionConfig(paged.min_rows(problem), 4, 2, 2))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    wanted = attend(arguments(together, whole(together)), configs[0]).split(lengths)
    with pytest.MonkeyPatch.context() as patch:
        for call in schedule(data.draw(st.integers(0, 2**32)), lengths):
            way, config, padding = rng.choice(list(WAYS)), rng.choice(configs), rng.choice([0, 3])
            go(patch, way)
            y = attend(arguments(apart, call, padding), config)
            parts = y.split([*(end - begin for _, begin, end in call), padding])
            for (r, begin, end), part in zip(call, parts, strict=False):
                assert torch.equal(part, wanted[r][begin:end]), (way, config, call, r)
    for a, b in ((apart.keys, together.keys), (apart.values, together.values)):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.skipif(not ON_GPU, reason="this needs a GPU")
def test_a_graph_serves_other_positions_and_tables():
    heads = Heads(8, 2, 64, torch.bfloat16, torch.bfloat16)
    sequences = draw(heads, (3, 70, 0), (150, 150, 150))
    plain = sequences.clone()
    static = [a if a is None else a.clone() for a in arguments(sequences, [(r, 0, 1) for r in range(3)])]
    static[1:4] = [sequences.keys, sequences.values, sequences.rotary]
    attend(static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = attend(static)
    for step in range(150):
        call = [(r, step, step + 1) for r in range(3)]
        for place, a in enumerate(arguments(sequences, call)):
            if place not in (1, 2, 3) and a is not None:
                static[place].copy_(a)
        graph.replay()
        assert torch.equal(y, attend(arguments(plain, call)))
