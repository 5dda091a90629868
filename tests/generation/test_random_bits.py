"""Philox4x32-10 against the known answers of the Random123 library and against Python's integers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.generation.random_bits import philox, random_words

KNOWN = [  # counter, key, answer: Random123's kat_vectors, philox4x32 with 10 rounds
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
WORDS = st.integers(0, 2**32 - 1)


def words(text):
    return [int(word, 16) for word in text.split()]


def plain_philox(counter, key):
    """Compute the words one by one, as the paper writes them."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    assert philox(torch.tensor(words(counter)), torch.tensor(words(key))).tolist() == words(answer)
    assert plain_philox(words(counter), words(key)) == words(answer)


@given(st.lists(st.tuples(*[WORDS] * 6), min_size=1, max_size=5))
def test_any_words(rows):
    results = philox(torch.tensor([row[:4] for row in rows]), torch.tensor([row[4:] for row in rows]))
    assert results.tolist() == [plain_philox(row[:4], row[4:]) for row in rows]


@given(seed=st.integers(0, 2**63 - 1), positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_words_of_seeds_and_positions(seed, positions):
    results = random_words(torch.tensor([[seed]]), torch.tensor([positions]))
    assert results.shape == (1, len(positions), 2)
    key = (seed % 2**32, seed >> 32)
    assert results[0].tolist() == [plain_philox((p % 2**32, p >> 32, 0, 0), key)[:2] for p in positions]


def test_bits_are_fair_and_independent():
    results = random_words(torch.arange(128)[:, None], torch.arange(128)[None])  # small seeds and positions, all pairs
    bits = torch.stack([(results >> bit) & 1 for bit in range(32)], -1).flatten(-2).double()  # (128, 128, 64)
    fair = 4.5 * 0.5 / 128  # deviations of the mean of 16,384 bits
    assert (bits.mean((0, 1)) - 0.5).abs().max() < fair
    for other in (bits.roll(1, 0), bits.roll(1, 1), bits.roll(1, 2)):  # the next seed, position and bit
        assert ((bits == other).double().mean((0, 1)) - 0.5).abs().max() < fair
