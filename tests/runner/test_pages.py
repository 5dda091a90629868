"""Pages: none is lost, none has two owners that write, and every sequence reads what it wrote, whatever happened."""

import random

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from bitnet_jit.errors import CacheFull, InvalidInput
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.runner.pages import PagedSequence, PagePool, extend, fork, truncate
from bitnet_jit.training.settings import TrainSettings

PAGES = 12


class Model:
    """A pool, what lies in its pages, and what every sequence wrote, token by token."""

    def __init__(self) -> None:
        self.pool, self.memory = PagePool(PAGES), [[None] * PAGE for _ in range(PAGES)]
        self.texts: dict[PagedSequence, list[int]] = {}
        self.written = 0

    def new(self) -> PagedSequence:
        sequence = PagedSequence()
        self.texts[sequence] = []
        return sequence

    def extend(self, sequence: PagedSequence, tokens: int) -> None:
        before = (list(sequence.pages), sequence.length, self.pool.num_free)
        try:
            copies = extend(self.pool, sequence, tokens)
        except CacheFull:
            assert (list(sequence.pages), sequence.length, self.pool.num_free) == before
            return
        for source, target in copies:
            self.memory[target] = list(self.memory[source])
        for position in range(sequence.length, sequence.length + tokens):
            page = sequence.pages[position // PAGE]
            assert self.pool.references(page) == 1
            self.memory[page][position % PAGE] = self.written
            self.texts[sequence].append(self.written)
            self.written += 1
        sequence.length += tokens

    def fork(self, sequence: PagedSequence, length: int) -> PagedSequence:
        child = fork(self.pool, sequence, length)
        self.texts[child] = self.texts[sequence][:length]
        return child

    def truncate(self, sequence: PagedSequence, length: int) -> None:
        truncate(self.pool, sequence, length)
        del self.texts[sequence][length:]

    def free(self, sequence: PagedSequence) -> None:
        truncate(self.pool, sequence, 0)
        del self.texts[sequence]

    def check(self) -> None:
        """Count references anew, and read every sequence."""
        counted = [0] * PAGES
        for sequence, text in self.texts.items():
            for page in sequence.pages:
                counted[page] += 1
            read = [self.memory[sequence.pages[p // PAGE]][p % PAGE] for p in range(sequence.length)]
            assert read == text
        assert counted == [self.pool.references(page) for page in range(PAGES)]
        assert self.pool.num_free == counted.count(0)


class Pages(RuleBasedStateMachine):
    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(target=sequences)
    def new(self):
        return self.model.new()

    @rule(sequence=sequences, tokens=st.integers(1, 200))
    def extend(self, sequence, tokens):
        if sequence in self.model.texts:
            self.model.extend(sequence, tokens)

    @rule(target=sequences, sequence=sequences, share=st.floats(0, 1))
    def fork(self, sequence, share):
        if sequence not in self.model.texts:
            return multiple()
        return self.model.fork(sequence, int(share * sequence.length))

    @rule(sequence=sequences, share=st.floats(0, 1))
    def truncate(self, sequence, share):
        if sequence in self.model.texts:
            self.model.truncate(sequence, int(share * sequence.length))

    @rule(sequence=sequences)
    def free(self, sequence):
        if sequence in self.model.texts:
            self.model.free(sequence)

    @invariant()
    def nothing_is_lost(self):
        self.model.check()


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.exhaustive
def test_a_hundred_thousand_operations_that_hypothesis_chooses():
    steps = 0

    class Counted(Pages):
        @invariant()
        def is_counted(self):
            nonlocal steps
            steps += 1

    run_state_machine_as_test(
        Counted, settings=settings(max_examples=1100, stateful_step_count=100, deadline=None, database=None)
    )
    assert steps >= 100_000


def test_a_hundred_thousand_operations_leave_no_page_behind():
    chance, model = random.Random(0), Model()
    for step in range(100_000):
        known = list(model.texts)
        kind = chance.choice(("extend", "extend", "fork", "truncate", "free")) if known else "new"
        if kind == "new" or len(known) < 3:
            model.new()
            continue
        sequence = chance.choice(known)
        if kind == "extend":
            model.extend(sequence, chance.randint(1, 90))
        elif kind == "free":
            model.free(sequence)
        else:
            getattr(model, kind)(sequence, chance.randint(0, sequence.length))
        if len(known) > 12:
            model.free(chance.choice(list(model.texts)))
        if step % 50 == 0:
            model.check()
    for sequence in list(model.texts):
        model.free(sequence)
    model.check()
    assert model.pool.num_free == PAGES


def cache_of(pages: int, dtype: torch.dtype = torch.float32) -> PagedCache:
    return PagedCache(TrainSettings().decoder(), pages, dtype, torch.device("cpu"))


class CacheModel(Model):
    """A cache of int8; each token leaves a mark in every tensor, of keys, of values and of their scales."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = cache_of(PAGES, torch.int8)
        self.pool = self.cache.pool

    def slots(self, sequence: PagedSequence, position: int) -> list[torch.Tensor]:
        """Return the parts of all tensors that are a position's."""
        page, slot = sequence.pages[position // PAGE], position % PAGE
        kinds = self.cache.pages
        return [
            *(keys[page, :, :, slot] for keys in kinds.keys),
            *(tensor[page, :, slot] for tensor in (*kinds.values, *kinds.key_scale, *kinds.value_scale)),
        ]

    def extend(self, sequence: PagedSequence, tokens: int) -> None:
        try:
            self.cache.extend(sequence, tokens)
        except CacheFull:
            return
        for position in range(sequence.length, sequence.length + tokens):
            self.written += 1
            for part in self.slots(sequence, position):
                part.fill_(self.written % 127)
            self.texts[sequence].append(self.written % 127)
        sequence.length += tokens

    def check(self) -> None:
        for sequence, text in self.texts.items():
            for position in {0, len(text) // 2, len(text) - 1} if text else ():
                assert all((part == text[position]).all() for part in self.slots(sequence, position))


class CachePages(Pages):
    def __init__(self) -> None:
        super().__init__()
        self.model = CacheModel()


TestCachePages = CachePages.TestCase
TestCachePages.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_size_of_a_cache_is_that_of_its_tokens(dtype):
    config = TrainSettings().decoder()
    per_head = config.head_dim * dtype.itemsize + (4 if dtype == torch.int8 else 0)
    expected = 2 * config.num_layers * config.num_kv_heads * per_head * 3 * PAGE
    assert cache_of(3, dtype).num_bytes == expected
    assert KVCache(config, 3, PAGE, dtype, torch.device("cpu")).num_bytes == expected


def test_a_shared_page_is_copied_before_it_is_written():
    cache = cache_of(4)
    first = cache.new_sequence()
    cache.extend(first, 70)
    first.length = 70
    for page in first.pages:
        cache.pages.keys[0][page] = page + 1
        cache.pages.values[1][page] = page + 1
    second = cache.fork(first)
    cache.extend(second, 1)
    assert second.pages[0] == first.pages[0]
    assert second.pages[1] != first.pages[1]
    for before, after in zip(first.pages, second.pages, strict=True):
        assert torch.equal(cache.pages.keys[0][before], cache.pages.keys[0][after])
        assert torch.equal(cache.pages.values[1][before], cache.pages.values[1][after])
    cache.free(first)
    cache.free(second)
    assert cache.pool.num_free == 4


def test_a_full_cache_says_so_and_loses_nothing():
    cache = cache_of(2)
    sequence = cache.new_sequence()
    cache.extend(sequence, 100)
    sequence.length = 100
    with pytest.raises(CacheFull, match="pages: 1 more of 64 tokens are needed, and 0 of 2 are free; free a sequence"):
        cache.extend(sequence, 29)
    assert (len(sequence.pages), sequence.length) == (2, 100)
    cache.extend(sequence, 28)


def test_lengths_and_numbers_of_pages_are_checked():
    for number in (0, -1, 1.5, "4"):
        with pytest.raises(InvalidInput, match="num_pages: "):
            cache_of(number)
    with pytest.raises(InvalidInput, match="num_pages: a cache of 1000000000 pages of 64 tokens needs"):
        cache_of(10**9)
    cache = cache_of(2)
    sequence = cache.new_sequence()
    for call in (cache.fork, cache.truncate):
        with pytest.raises(InvalidInput, match="length: expected 0 to 0, the tokens of the sequence, got 1"):
            call(sequence, 1)
