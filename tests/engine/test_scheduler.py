"""The scheduler over drawn histories: what it plans fits, all end, and no page is lost or used twice."""

from collections import Counter

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bitnet_jit.engine.text.prefix_cache import PrefixCache
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Scheduler
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import StopRule
from bitnet_jit.problem import PAGE, pages_for
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.training.settings import TrainSettings

PAGES = 8
MAX_RUNNING = 4
MOST = PAGES * PAGE


def make_scheduler(pages=PAGES, running=MAX_RUNNING, kept=True):
    cache = PagedCache(TrainSettings().decoder(), pages, torch.float32, torch.device("cpu"))
    return Scheduler(cache, PrefixCache(cache) if kept else None, running)


def make_request(length, limit, priority=0, client="", first=0):
    ids = [first] * length
    return Request(ids, length, limit, StopRule(frozenset(), ()), Sampling(), None, 0.0, None, priority, client)


class Machine(RuleBasedStateMachine):
    """Adds, cancels and runs steps, as a replica does, without a network."""

    def __init__(self):
        super().__init__()
        self.scheduler = make_scheduler()
        self.alive, self.ended = [], 0

    @rule(
        length=st.integers(1, 300),
        limit=st.integers(1, 200),
        priority=st.integers(0, 1),
        client=st.sampled_from("ab"),
        first=st.integers(0, 2),
    )
    @precondition(lambda self: len(self.alive) < 9)
    def add(self, length, limit, priority, client, first):
        request = make_request(length, limit, priority, client, first)
        self.scheduler.add(request)
        self.alive.append(request)

    @rule(data=st.data())
    @precondition(lambda self: self.alive)
    def cancel(self, data):
        self.end(data.draw(st.sampled_from(self.alive)))

    @rule(budget=st.integers(1, 200), steps=st.integers(1, 40))
    def run(self, budget, steps):
        for _ in range(steps):
            self.step(budget)

    def step(self, budget):
        writing = [request for request in self.scheduler.running if request.left == 1]
        plan = self.scheduler.plan(budget)
        assert bool(plan) == bool(self.alive)  # somebody always goes on
        assert sum(tokens for request, tokens in plan.items() if request not in writing) <= budget
        assert all(request in plan for request in writing if request in self.scheduler.running[:1])
        for request, tokens in plan.items():
            assert 1 <= tokens <= request.left
            self.scheduler.cache.extend(request.sequence, tokens)  # raises where there is no room
            request.sequence.length += tokens
        for request in [request for request in plan if not request.left]:
            if not request.new_tokens:
                self.scheduler.note_computed(request)
            if request.push(0):
                self.end(request)

    def end(self, request):
        self.scheduler.remove(request)
        self.alive.remove(request)
        self.ended += 1

    @invariant()
    def pages_are_whose_they_are(self):
        pool, prefixes = self.scheduler.cache.pool, self.scheduler.prefixes
        users = Counter(page for request in self.alive for page in request.sequence.pages)
        users.update(prefixes._pages.values())
        assert {page: pool.references(page) for page in range(PAGES)} == {page: users[page] for page in range(PAGES)}
        assert pool.num_free == PAGES - len(users)

    @invariant()
    def requests_are_somewhere(self):
        scheduler = self.scheduler
        assert {*scheduler.waiting, *scheduler.running} == {*self.alive}
        assert len(scheduler.waiting) + len(scheduler.running) == len(self.alive)
        assert len(scheduler.running) <= MAX_RUNNING
        assert all(not request.sequence.pages for request in scheduler.waiting)
        assert scheduler.running == sorted(scheduler.running, key=lambda request: request.rank)

    def teardown(self):
        for _ in range(20_000):
            if not self.alive:
                break
            self.step(64)
        assert not self.alive  # all end, whatever came before


def test_histories():
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


def run(scheduler, budget):
    """Run a step; return what was planned."""
    plan = scheduler.plan(budget)
    for request, tokens in plan.items():
        scheduler.cache.extend(request.sequence, tokens)
        request.sequence.length += tokens
        if not request.left:
            request.push(0)
    return plan


def test_prompts_wait_for_texts_and_not_the_other_way_round():
    scheduler = make_scheduler(kept=False)
    text, prompt = make_request(3, 50), make_request(200, 5)
    scheduler.add(text)
    assert run(scheduler, 100) == {text: 3}
    scheduler.add(prompt)
    assert [run(scheduler, 90) for _ in range(3)] == [
        {text: 1, prompt: 90},
        {text: 1, prompt: 90},
        {text: 1, prompt: 20},
    ]


def test_higher_priorities_begin_first_and_clients_take_turns():
    scheduler = make_scheduler(running=1, kept=False)
    greedy = [make_request(40, 1, client="greedy") for _ in range(4)]
    for request in greedy:
        scheduler.add(request)
    first = run(scheduler, 100)
    scheduler.remove(*first)
    modest, urgent = make_request(40, 1, client="modest"), make_request(40, 1, priority=1, client="greedy")
    scheduler.add(modest)
    scheduler.add(urgent)
    order = []
    while scheduler.waiting:
        (request,) = run(scheduler, 100)
        order.append(request)
        scheduler.remove(request)
    assert first == {greedy[0]: 40}
    assert order == [urgent, modest, *greedy[1:]]


def test_clients_without_requests_are_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr("bitnet_jit.engine.text.scheduler.MAX_CLIENTS", 10)
    scheduler = make_scheduler(kept=False)
    stays = make_request(2, 150, client="stays")
    scheduler.add(stays)
    for number in range(100):
        guest = make_request(2, 1, client=f"guest {number}")
        scheduler.add(guest)
        run(scheduler, 100)
        scheduler.remove(guest)
        assert len(scheduler._served) <= 12
    assert scheduler._served["stays"] == 101


def test_who_came_last_gives_up_its_pages_and_is_computed_anew():
    scheduler = make_scheduler(pages=4, kept=False)
    early, late = make_request(PAGE, 150), make_request(PAGE, 150)
    scheduler.add(early)
    scheduler.add(late)
    while not scheduler.preemptions:
        run(scheduler, 1000)
    assert scheduler.running == [early]
    assert scheduler.waiting == [late]
    assert late.new_tokens > 0
    assert not late.sequence.pages
    scheduler.remove(early)
    assert run(scheduler, 1000) == {late: len(late.ids) - 1}


@pytest.mark.parametrize("kept", [True, False])
def test_pages_that_are_kept_give_way(kept):
    scheduler = make_scheduler(pages=4, kept=kept)
    one = make_request(3 * PAGE, 2, first=1)
    scheduler.add(one)
    run(scheduler, 1000)
    scheduler.remove(one)
    assert scheduler.cache.pool.num_free == (1 if kept else 4)
    again, other = make_request(3 * PAGE, 2, first=1), make_request(2 * PAGE + 1, 2, first=2)
    scheduler.add(again)
    assert run(scheduler, 1000) == {again: PAGE if kept else 3 * PAGE}  # its last page has the token that is wanted
    scheduler.remove(again)
    scheduler.add(other)
    assert run(scheduler, 1000) == {other: 2 * PAGE + 1}
    assert pages_for(2 * PAGE + 1) == 3
