"""A token's logits are the same bits under any load: alone or in a crowd, in one prefill, in chunks or one by one."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import write
from ternary_heads import make_head_ternary

import bitnet_jit
from bitnet_jit.errors import CacheFull, InvalidInput
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.recorded import GRAPH_ROWS, MAX_STEPS
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

TEXTS = 6
LENGTHS = (1, 3, 40, 64, 65, 150)
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
PLACES = [  # of the model, the dtype of its cache, and how its head is stored
    ("cpu", "auto", "checkpoint"),
    ("cpu", "int8", "checkpoint"),
    ("cpu", "auto", "i2"),
    ("cpu", "auto", "t5"),
    pytest.param(("cuda", "auto", "checkpoint"), marks=ON_GPU),
    pytest.param(("cuda", "bfloat16", "checkpoint"), marks=ON_GPU),
]
TERNARY = {"max_position_embeddings": 1024, "hidden_size": 256, "num_attention_heads": 8, "tie_word_embeddings": True}


@pytest.fixture(scope="module", params=PLACES, ids=str)
def decoder(request, tmp_path_factory):
    from bitnet_jit.checkpoints.embedded import embedded_model

    device, cache, head = request.param
    folder = embedded_model()
    if head != "checkpoint":
        folder = write(tmp_path_factory.mktemp("ternary") / "model", **TERNARY)
        make_head_ternary(folder, "group" if head == "i2" else "row")
    return bitnet_jit.load(folder, device=device, cache=cache, head=head)


@pytest.fixture(scope="module")
def texts(kjv):
    return [row[:length].tolist() for row, length in zip(kjv, LENGTHS, strict=False)]


@pytest.fixture(scope="module")
def alone(decoder, texts):
    """The logits of each text in one prefill of its own."""
    runner = Runner(decoder, 8)
    logits = []
    for text in texts:
        sequence = runner.cache.new_sequence()
        logits.append(runner.step([Chunk(sequence, text, wanted=len(text))]).clone())
        runner.cache.free(sequence)
    return logits


def run_schedule(decoder, texts, alone, seed):
    """Run texts by a schedule that is drawn: which enter when, how many tokens each gets in a step, what is wanted."""
    chance, runner = random.Random(seed), Runner(decoder, TEXTS * 4)
    waiting = [chance.randrange(len(texts)) for _ in range(chance.randint(1, TEXTS))]
    likely = chance.choice(([1], [0, 1, 1, 2], [PAGE, 7], [0, 1, 2, 7, PAGE, 150], [150]))
    running = []
    while running or waiting:
        while waiting and (not running or chance.random() < 0.5):
            running.append((waiting.pop(), runner.cache.new_sequence()))
        chunks = []
        for which, sequence in running:
            size = min(chance.choice(likely), len(texts[which]) - sequence.length)
            if size:
                tokens = texts[which][sequence.length : sequence.length + size]
                chunks.append((which, sequence.length + size, Chunk(sequence, tokens, chance.randint(0, size))))
        if chunks:
            if all(len(chunk.tokens) == chunk.wanted == 1 for *_, chunk in chunks) and chance.random() < 0.7:
                tokens = torch.tensor([chunk.tokens[0] for *_, chunk in chunks], device=decoder.device)
                rows = runner.advance([chunk.sequence for *_, chunk in chunks], tokens).logits
            else:
                run = chance.choice((runner.step, runner.repeat))
                rows = run([chunk for *_, chunk in chunks])
            for which, end, chunk in chunks:
                assert torch.equal(rows[: chunk.wanted], alone[which][end - chunk.wanted : end])
                rows = rows[chunk.wanted :]
        for entry in [entry for entry in running if entry[1].length == len(texts[entry[0]])]:
            running.remove(entry)
            runner.cache.free(entry[1])
    assert runner.cache.pool.num_free == TEXTS * 4


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_logits_do_not_depend_on_the_schedule(decoder, texts, alone, seed):
    run_schedule(decoder, texts, alone, seed)


@pytest.mark.exhaustive
def test_logits_do_not_depend_on_many_schedules(decoder, texts, alone):
    for seed in range(2000 if decoder.device.type == "cpu" else 200):
        run_schedule(decoder, texts, alone, seed)


def test_a_shared_beginning_gives_the_same_bits(decoder, texts, alone):
    runner, text = Runner(decoder, 8), texts[5]
    first = runner.cache.new_sequence()
    runner.step([Chunk(first, text[:100])])
    second = runner.cache.fork(first, 70)
    rows = runner.step([Chunk(first, text[100:], 50), Chunk(second, text[70:], 80)])
    assert torch.equal(rows[:50], alone[5][100:])
    assert torch.equal(rows[50:], alone[5][70:])


def test_drafted_tokens_that_were_wrong_leave_nothing_behind(decoder, texts, alone):
    runner, text = Runner(decoder, 8), texts[5]
    sequence = runner.cache.new_sequence()
    runner.step([Chunk(sequence, text[:60])])
    rows = runner.step([Chunk(sequence, [*text[60:63], 1, 2, 3, 4], 7)])
    assert torch.equal(rows[:3], alone[5][60:63])
    runner.cache.truncate(sequence, 63)
    assert torch.equal(runner.step([Chunk(sequence, text[63:], 87)]), alone[5][63:])


def test_single_tokens_from_the_device_are_those_of_steps(decoder, texts, alone):
    runner = Runner(decoder, 12)
    sequences = [runner.cache.new_sequence() for _ in range(3)]
    runner.step([Chunk(sequence, text[:30]) for sequence, text in zip(sequences, texts[2:5], strict=True)])
    for place in range(30, 40):
        tokens = torch.tensor([text[place] for text in texts[2:5]], device=decoder.device)
        rows = runner.advance(sequences, tokens).logits
        for row, logits in zip(rows, alone[2:5], strict=True):
            assert torch.equal(row, logits[place])


def test_steps_are_captured_for_each_number_of_rows_and_of_threads(decoder, texts, alone):
    runner = Runner(decoder, 12)
    sequences = [runner.cache.new_sequence() for _ in range(3)]
    try:
        for place, (rows, number) in enumerate([(3, 1), (2, 1), (3, 2), (1, 2), (3, 1), (2, 2)]):
            bitnet_jit.set_num_threads(number)
            for first, text in zip(sequences, texts[3:], strict=True):
                first_new = text[first.length : place]
                if first_new:
                    runner.step([Chunk(first, first_new)])
            tokens = torch.tensor([text[place] for text in texts[3 : 3 + rows]], device=decoder.device)
            for row, logits in zip(runner.advance(sequences[:rows], tokens).logits, alone[3:], strict=False):
                assert torch.equal(row, logits[place])
    finally:
        bitnet_jit.set_num_threads(None)


def test_a_step_of_each_shape_and_number_of_threads_is_recorded(decoder, texts, alone):
    """A chunk of a prompt beside texts: shapes come and go, more than are kept, and sequences change places."""
    runner = Runner(decoder, 12)
    sequences = [runner.cache.new_sequence() for _ in range(3)]
    sizes = [
        (3, 1, 1),
        (1, 1, 3),
        (3, 1, 1),
        (1, 1, 1),
        (2, 2, 2),
        (5, 1, 1),
        (4, 1, 1),
        (6, 1, 1),
        (3, 1, 1),
        (1, 7, 1),
    ]
    try:
        for turn, step in enumerate(sizes):
            bitnet_jit.set_num_threads(1 + turn // 2 % 2)
            order = [(turn + place) % 3 for place in range(3)]
            ends = {which: sequences[which].length + size for which, size in zip(order, step, strict=True)}
            chunks = [
                Chunk(sequences[which], texts[3 + which][sequences[which].length : end], wanted=1)
                for which, end in ends.items()
            ]
            for row, (which, end) in zip(runner.repeat(chunks), ends.items(), strict=True):
                assert torch.equal(row, alone[3 + which][end - 1])
    finally:
        bitnet_jit.set_num_threads(None)
    if decoder.device.type == "cpu":
        assert len(runner._recorded._steps) == MAX_STEPS
    else:
        assert [shape.rows for shape in runner._recorded._steps] == [16] * 2, "one graph for each number of threads"


@pytest.mark.parametrize("turn", range(4))
def test_a_step_that_is_captured_serves_smaller_ones(decoder, texts, alone, turn):
    """Where steps are graphs; on a CPU they are recorded with the same padding."""
    runner = Runner(decoder, 20)
    runner._recorded._by_graph = True
    chance = random.Random(turn)
    sequences = {which: runner.cache.new_sequence() for which in range(len(texts))}
    for _ in range(12):
        left = [which for which, sequence in sequences.items() if sequence.length < len(texts[which])]
        chunks = []
        for which in chance.sample(left, chance.randint(1, len(left))) if left else ():
            length = sequences[which].length
            end = min(len(texts[which]), length + chance.choice((1, 1, 2, 17, 33, 90)))
            chunks.append(Chunk(sequences[which], texts[which][length:end], chance.randint(0, end - length)))
        if not sum(chunk.wanted for chunk in chunks):
            continue
        expected = [
            alone[which][sequence.length + len(chunk.tokens) - chunk.wanted : sequence.length + len(chunk.tokens)]
            for chunk in chunks
            for which, sequence in sequences.items()
            if sequence is chunk.sequence
        ]
        assert torch.equal(runner.repeat(chunks), torch.cat(expected))
    assert all(shape.rows in GRAPH_ROWS for shape in runner._recorded._steps)


def test_steps_are_captured_ahead_where_they_are_graphs(decoder, texts, alone):
    runner = Runner(decoder, 4)
    if decoder.device.type == "cpu":
        assert not runner.capture_next(16), "there are too many shapes"
    runner._recorded._by_graph = True
    sequence = runner.cache.new_sequence()
    assert torch.equal(runner.repeat([Chunk(sequence, texts[3][:40])])[0], alone[3][39])
    before = set(runner._recorded._steps)
    for _ in range(3):
        assert runner.capture_next(1)
    runner._recorded._to_come = runner._recorded._to_come[-1:]
    while runner.capture_next(1):
        pass
    kept = runner._recorded._steps
    assert before < set(kept)
    assert {shape.sequences for shape in kept} == {1}
    assert not runner.capture_next(1)
    assert torch.equal(runner.repeat([Chunk(sequence, texts[3][40:45], 5)]), alone[3][40:45])


def test_a_step_that_wants_no_logits_is_run_and_not_recorded(decoder, texts, alone):
    runner = Runner(decoder, 4)
    sequence = runner.cache.new_sequence()
    assert runner.repeat([Chunk(sequence, texts[3][:40], 0)]).shape == (0, decoder.config.vocab_size)
    assert torch.equal(runner.repeat([Chunk(sequence, texts[3][40:], 3)]), alone[3][-3:])


def test_bad_chunks_are_refused_before_anything_changes(decoder):
    runner = Runner(decoder, 2)
    one, two = runner.cache.new_sequence(), runner.cache.new_sequence()
    cases = [
        ([], "chunks: expected at least one, got none"),
        ([Chunk(one, [])], "chunks: expected at least one token .* got 0 tokens"),
        ([Chunk(one, [1], 2)], "chunks: .* got 1 tokens and wanted=2"),
        ([Chunk(one, [1]), Chunk(one, [2])], "chunks: a sequence stands there twice"),
        ([Chunk(one, [1] * 1025)], "chunks: a sequence would have 1025 tokens, but the model's context is 1024"),
    ]
    for chunks, words in cases:
        with pytest.raises(InvalidInput, match=words):
            runner.step(chunks)
    with pytest.raises(CacheFull, match="pages: 1 more"):
        runner.step([Chunk(one, [1] * 65), Chunk(two, [1])])
    assert (one.length, one.pages, two.length, two.pages) == (0, [], 0, [])
    assert runner.cache.pool.num_free == 2
