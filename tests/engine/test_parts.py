"""The small parts of an engine: mailboxes, pieces of text, the pace of prompts, the cache of prefixes."""

import asyncio
import math
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.engine.text import graph_pace
from bitnet_jit.engine.text.graph_pace import SIZES, GraphPace
from bitnet_jit.engine.text.mailbox import Mailbox
from bitnet_jit.engine.text.pace import SHARE, TILE, Pace, in_tiles
from bitnet_jit.engine.text.pieces import TextPieces
from bitnet_jit.engine.text.prefix_cache import PrefixCache
from bitnet_jit.engine.text.usual import LEAST, Usual, share_of
from bitnet_jit.generation.tokenizer import ByteTokenizer
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.training.settings import TrainSettings


def test_a_mailbox_wakes_a_thread_and_a_loop():
    box, seen = Mailbox(), []
    thread = threading.Thread(target=lambda: seen.append(box.take(5)))
    thread.start()
    box.put("first")
    thread.join(5)

    async def wait():
        task = asyncio.create_task(box.take_async())
        await asyncio.sleep(0.01)
        threading.Thread(target=box.put, args=("second",)).start()
        return await asyncio.wait_for(task, 5)

    assert (seen, asyncio.run(wait())) == (["first"], "second")


def test_a_mailbox_outlives_the_loop_that_waited():
    box = Mailbox()

    async def leave():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(box.take_async(), 0.01)

    asyncio.run(leave())
    box.put("late")
    assert box.take(0) == "late"
    with pytest.raises(TimeoutError, match="nothing has come within 0 s"):
        box.take(0)


@given(
    text=st.text(alphabet="abé", max_size=30),
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3),
)
def test_pieces_are_the_text_up_to_the_first_stop_string(text, stops):
    """Never a character more, even for a moment; the worker ends a text with the token that completes a string."""
    tokens = list(text.encode())
    end = len(tokens)
    for place in range(len(tokens)):
        if any(stop in bytes(tokens[: place + 1]).decode(errors="ignore") for stop in stops):
            end = place + 1
            break
    told = bytes(tokens[:end]).decode(errors="replace")
    expected = told[: min((told.index(stop) for stop in stops if stop in told), default=len(told))]
    pieces = TextPieces(ByteTokenizer().stream(), stops)
    seen = ""
    for place, token in enumerate(tokens[:end]):
        seen += pieces.push(token, place == end - 1)
        assert expected.startswith(seen)
    assert seen == expected


def test_without_a_tokenizer_pieces_are_empty():
    assert TextPieces(None).push(5, True) == ""


@given(
    step=st.floats(1e-4, 1.0),
    token=st.floats(1e-6, 0.1),
    texts=st.integers(1, 64),
    reading=st.integers(1, 9),
    data=st.data(),
)
def test_a_chunk_takes_no_longer_than_its_share_of_a_step(step, token, texts, reading, data):
    pace, young = Pace(2000), data.draw(st.integers(0, texts - 1))
    share = share_of(reading, texts - young, SHARE)
    assert (pace.budget(texts), pace.budget(0), pace.budget(texts, 1, texts)) == (0, 2000, 2000)
    pace.note(texts, 0, step)
    assert pace.budget(texts) == in_tiles(texts, LEAST)
    for outlier in (0, 0, 0, 10):
        pace.note(texts, 0, step + outlier)
        pace.note(texts, 1000, step + 1000 * token + outlier)
    budget = pace.budget(texts, reading, young)
    assert LEAST <= budget <= 2000
    few = Pace(data.draw(st.integers(1, 2 * LEAST)), pace.usual, pace.added)
    assert 1 <= few.budget(texts, reading, young) <= few.most
    assert budget < LEAST + TILE or budget * token <= share * step * 1.001
    assert budget > 2000 - TILE or (budget + TILE + 1) * token >= share * step * 0.999
    assert pace.budget(texts, 0) == pace.budget(texts, reading, texts) == 2000


@given(
    step=st.floats(1e-4, 1.0),
    times=st.lists(st.floats(1, 3), min_size=len(SIZES), max_size=len(SIZES)),
    texts=st.integers(1, 250),
    reading=st.integers(1, 9),
)
def test_the_largest_graph_is_used_that_keeps_the_goal_or_is_worth_its_time(step, times, texts, reading):
    """Sizes take ever longer; they are tried one by one, and none behind one that took too long."""
    seconds = {size: step * math.prod(times[: place + 1]) for place, size in enumerate(SIZES)}
    pace, seen = GraphPace(4096), []
    assert (pace.budget(texts), pace.budget(0), pace.budget(texts, 1, texts)) == (0, 4096, 4096)
    pace.note(texts, 0, step)
    for _ in range(2 * len(SIZES)):
        seen.append(pace.budget(texts, reading))
        size = next((size for size in SIZES if size >= texts + seen[-1]), None)
        assert size in (None, texts + seen[-1]) or seen[-1] == LEAST, "a graph is full"
        pace.note(texts, seen[-1], seconds.get(size, 0))
    goal = (1 + share_of(reading, texts, graph_pace.SHARE)) * step
    sizes = [size for size in SIZES if size >= texts + LEAST]
    best = sizes[0]
    for size in sizes[1:]:
        if seconds[size] > max(goal, graph_pace.WORTH * seconds[best]):
            break
        best = size
    assert seen[-1] == seen[-2] == best - texts
    assert len(set(seen)) <= len(sizes)
    pace.note(texts, sizes[-1], 1e-9)
    for _ in range(graph_pace.FORGOTTEN):
        pace.budget(texts, reading)
    assert len(pace.took) == 0, "what was is forgotten at times"


def test_a_pace_of_graphs_keeps_to_the_tokens_that_a_step_may_hold():
    pace = GraphPace(100)
    pace.note(16, 0, 1.0)
    assert [pace.budget(texts) for texts in (16, 4090, 5000)] == [16, LEAST, LEAST]
    pace.note(16, 16, 1.0)
    pace.note(16, 112, 1.0)
    assert pace.budget(16) == 100


@given(writing=st.integers(1, 300), tokens=st.integers(0, 5000))
def test_a_budget_fills_tiles(writing, tokens):
    filled = in_tiles(writing, tokens)
    assert (writing + filled) % TILE == 0
    assert filled >= LEAST
    assert filled <= max(tokens, LEAST + TILE - 1)


@given(known=st.dictionaries(st.integers(1, 300), st.floats(1e-3, 1), min_size=1), writing=st.integers(1, 300))
def test_a_step_of_a_size_that_was_not_seen_is_like_the_nearest(known, writing):
    usual = Usual()
    for number, seconds in known.items():
        usual.note(number, seconds)
    sizes = {number.bit_length() for number in known}
    assert (usual.seconds(writing) in known.values()) is True
    if writing.bit_length() in sizes:
        assert usual.seconds(writing) in {
            seconds for n, seconds in known.items() if n.bit_length() == writing.bit_length()
        }
    assert usual.seconds(0) == 0


@given(data=st.data())
def test_prefixes_are_those_of_the_same_beginning(data):
    """Against a list of all texts: the longest beginning of whole pages that one of them shares."""
    cache = PagedCache(TrainSettings().decoder(), 40, torch.float32, torch.device("cpu"))
    prefixes = PrefixCache(cache)
    page = st.sampled_from([[0] * PAGE, [1] * PAGE])
    text = st.builds(
        lambda pages, more: [*sum(pages, []), *[0] * more], st.lists(page, max_size=4), st.integers(1, PAGE)
    )
    kept = []
    for ids in data.draw(st.lists(text, max_size=6)):
        sequence = prefixes.match(ids)
        longest = max((common_pages(ids, other) for other in kept), default=0)
        assert sequence.length == PAGE * min(longest, (len(ids) - 1) // PAGE)
        cache.extend(sequence, len(ids) - sequence.length)
        sequence.length = len(ids)
        prefixes.keep(ids, sequence)
        cache.free(sequence)
        kept.append(ids)
    assert cache.pool.num_free == 40 - len(prefixes)
    evictions = data.draw(st.integers(0, len(prefixes)))
    assert all(prefixes.evict() for _ in range(evictions))
    for ids in kept:  # what is left is beginnings: an end goes before what it stands behind
        sequence = prefixes.match([*ids, 0])
        assert sequence.length <= len(ids)
        cache.free(sequence)
    prefixes.clear()
    assert (cache.pool.num_free, prefixes.evict()) == (40, False)


def common_pages(one, other):
    """Return how many whole pages two texts begin with that are the same."""
    count = 0
    while (end := PAGE * (count + 1)) <= min(len(one), len(other)) and one[:end] == other[:end]:
        count += 1
    return count
