"""The small parts of an engine: mailboxes, pieces of text, the pace of prompts, the cache of prefixes."""

import asyncio
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.engine.text.mailbox import Mailbox
from bitnet_jit.engine.text.pace import LARGE, LEAST, SHARE, TILE, Pace, in_tiles
from bitnet_jit.engine.text.pieces import TextPieces
from bitnet_jit.engine.text.prefix_cache import PrefixCache
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


def share_of(reading, old):
    """Return what prompts may take of a step's usual time."""
    return max(SHARE, reading / old, (reading / old) ** 2)


@given(
    step=st.floats(1e-4, 1.0),
    token=st.floats(1e-6, 0.1),
    texts=st.integers(1, 64),
    reading=st.integers(1, 9),
    has_fixed=st.booleans(),
    data=st.data(),
)
def test_a_chunk_takes_no_longer_than_its_share_of_a_step(step, token, texts, reading, has_fixed, data):
    pace, young = Pace(2000, has_fixed), data.draw(st.integers(0, texts - 1))
    share = share_of(reading, texts - young)
    assert (pace.budget(texts), pace.budget(0), pace.budget(texts, 1, texts)) == (0, 2000, 2000)
    pace.note(texts, 0, step)
    assert pace.budget(texts) == in_tiles(texts, LEAST)
    for outlier in (0, 0, 0, 10):
        pace.note(texts, 0, step + outlier)
        pace.note(texts, 1000, step + 1000 * token + outlier)
    budget = pace.budget(texts, reading, young)
    assert LEAST <= budget <= 2000
    few = Pace(data.draw(st.integers(1, 2 * LEAST)), data.draw(st.booleans()), pace.step_s, pace.added)
    assert 1 <= few.budget(texts, reading, young) <= few.most
    assert budget < LEAST + TILE or budget * token <= share * step * 1.001
    assert budget > 2000 - TILE or (budget + TILE + 1) * token >= share * step * 0.999
    assert pace.budget(texts, 0) == pace.budget(texts, reading, texts) == 2000


@given(step=st.floats(1e-4, 1.0), token=st.floats(1e-6, 1e-3), texts=st.integers(1, 64), times=st.floats(0, 9))
def test_what_prompts_add_however_short_leaves_room_for_less_or_is_worth_its_while(step, token, texts, times):
    pace, fixed, share = Pace(4096), times * step, share_of(3, texts)
    for tokens in (4096, 16, 16, 8, 1024):
        pace.note(texts, 0, step)
        pace.note(texts, tokens, step + fixed + tokens * token)
    wanted = max(share * step - fixed, fixed if fixed > LARGE * step else 0) / token
    if abs(fixed - LARGE * step) > 0.01 * step:
        assert 0.99 * min(4096, wanted) - TILE <= pace.budget(texts, 3) <= 1.01 * wanted + LEAST + TILE


@given(writing=st.integers(1, 300), tokens=st.integers(0, 5000))
def test_a_budget_fills_tiles(writing, tokens):
    filled = in_tiles(writing, tokens)
    assert (writing + filled) % TILE == 0
    assert filled >= LEAST
    assert filled <= max(tokens, LEAST + TILE - 1)


@given(known=st.dictionaries(st.integers(1, 300), st.floats(1e-3, 1), min_size=1), writing=st.integers(1, 300))
def test_a_step_of_a_size_that_was_not_seen_is_like_the_nearest(known, writing):
    pace = Pace(100)
    for number, seconds in known.items():
        pace.note(number, 0, seconds)
    sizes = {number.bit_length() for number in known}
    assert (pace.usual(writing) in known.values()) is True
    if writing.bit_length() in sizes:
        assert pace.usual(writing) in {
            seconds for n, seconds in known.items() if n.bit_length() == writing.bit_length()
        }
    assert pace.usual(0) == 0


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
