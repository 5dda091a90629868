"""Changes of logits by bias, penalties, allowed and banned tokens, against transformers and against plain loops."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from bitnet_jit.generation.edits import make_edits
from bitnet_jit.generation.penalties import Tally
from bitnet_jit.generation.sampling import Sampling

CPU = torch.device("cpu")
VOCABULARY = 33
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=80)  # more than a line has room for at first
PENALTY = st.floats(-3, 3, width=32)
REPETITION = st.sampled_from([1.0, 1.5, 0.5, 100.0]) | st.floats(0.125, 4, width=32)
BIAS = st.none() | st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-100, 100, width=32))
OPTIONS = st.builds(
    Sampling,
    repetition_penalty=REPETITION,
    presence_penalty=st.just(0.0) | PENALTY,
    frequency_penalty=st.just(0.0) | PENALTY,
    logit_bias=BIAS,
    banned_token_ids=st.lists(st.integers(0, 15), max_size=4),
    allowed_token_ids=st.none() | st.lists(st.integers(5, 32), min_size=5, max_size=9, unique=True),
)


def plain(logits, options, prompt, output):
    """Change one row token by token, in float32."""
    result = [np.float32(logit) for logit in logits]
    for token, bias in (options.logit_bias or {}).items():
        result[token] += np.float32(bias)
    for token in {*prompt, *output}:
        repetition = np.float32(options.repetition_penalty)
        result[token] = result[token] / repetition if result[token] > 0 else result[token] * repetition
    for token, count in Counter(output).items():
        result[token] -= np.float32(options.frequency_penalty) * np.float32(count)
        result[token] -= np.float32(options.presence_penalty)
    for token in range(len(result)):
        allowed = options.allowed_token_ids is None or token in options.allowed_token_ids
        if not allowed or token in options.banned_token_ids:
            result[token] = np.float32(-math.inf)
    return [float(value) for value in result]


def edited(logits, options, prompts, outputs):
    """Change rows (n, V) together."""
    tally = Tally(logits.shape[1], CPU)
    slots = [
        tally.add(item, prompt) if item.is_penalized else None for item, prompt in zip(options, prompts, strict=True)
    ]
    for step in range(max(map(len, outputs))):  # one token per row and step, as long as a row has some
        rows = [row for row, output in enumerate(outputs) if step < len(output) and slots[row] is not None]
        tokens = torch.tensor([output[step] if step < len(output) else 0 for output in outputs])
        if rows:
            tally.note(rows, [slots[row] for row in rows], tokens)
    result = logits.clone()
    make_edits(options, slots, CPU).apply(result, tally)
    return result


@given(st.lists(st.tuples(OPTIONS, TOKENS, TOKENS), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_rows_are_changed_as_by_plain_loops(rows, seed):
    options, prompts, outputs = zip(*rows, strict=True)
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    expected = [plain(*row) for row in zip(logits.tolist(), options, prompts, outputs, strict=True)]
    assert edited(logits, options, prompts, outputs).tolist() == expected


@given(repetition=REPETITION, prompt=TOKENS, output=TOKENS, bias=BIAS, banned=st.sets(st.integers(0, 32), max_size=5))
def test_rows_are_changed_as_by_transformers(repetition, prompt, output, bias, banned):
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(len(prompt))) * 3
    processors = LogitsProcessorList()
    if bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()]))
    processors.append(RepetitionPenaltyLogitsProcessor(repetition))
    if banned:
        processors.append(SuppressTokensLogitsProcessor(sorted(banned)))
    ids = torch.tensor([[*prompt, *output]], dtype=torch.int64)
    expected = processors(ids, logits.clone())
    options = Sampling(repetition_penalty=repetition, logit_bias=bias, banned_token_ids=banned)
    assert torch.equal(edited(logits, [options], [prompt], [output]), expected)


def test_one_note_may_name_a_line_several_times():
    options = Sampling(frequency_penalty=1.0, repetition_penalty=2.0)
    tally = Tally(5, CPU)
    slots = [tally.add(options, [0]), tally.add(options, [])]
    tally.note([0, 1, 2, 3], [slots[0], slots[1], slots[0], slots[0]], torch.tensor([3, 3, 3, 1]))
    logits = torch.ones(2, 5) * 2
    make_edits([options] * 2, slots, CPU).apply(logits, tally)
    assert logits.tolist() == [[1, 0, 2, -1, 2], [2, 2, 2, 0, 2]]


def test_a_line_that_is_used_again_is_empty():
    options = Sampling(frequency_penalty=1.0, repetition_penalty=3.0)
    tally = Tally(5, CPU)
    first, second = tally.add(options, [1, 2]), tally.add(options, [3])
    tally.note([0, 1], [first, first], torch.tensor([4, 4]))
    tally.remove(first)
    assert tally.add(options, [0]) == first
    tally.note([0], [first], torch.tensor([4]))
    logits = torch.full((2, 5), 3.0)
    make_edits([options] * 2, [first, second], CPU).apply(logits, tally)
    assert logits.tolist() == [[1, 3, 3, 3, 0], [3, 3, 3, 1, 3]]


@pytest.mark.parametrize("number", [1, 2, 17, 40])
def test_lines_grow(number):
    options = Sampling(repetition_penalty=2.0)
    tally = Tally(64, CPU)
    slots = [tally.add(options, [row] * (5 * row)) for row in range(number)]
    assert len(set(slots)) == number
    logits = torch.ones(number, 64)
    make_edits([options] * number, slots, CPU).apply(logits, tally)
    expected = torch.ones(number, 64)
    for row in range(1, number):
        expected[row, row] = 0.5
    assert torch.equal(logits, expected)
