"""Prompts of unequal lengths: lists, or a tensor that is padded on the left."""

import pytest
import torch

from bitnet_jit.errors import InvalidInput

PROMPTS = [list(b"And it came to pass "), list(b"In the beginning God created"), list(b"For")]


def left_padded(prompts, pad=0):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def test_lists_of_unequal_lengths_are_continued_as_if_alone(tiny):
    together = tiny.generate(PROMPTS, max_new_tokens=12, stop="d")
    alone = [tiny.generate(prompt, max_new_tokens=12, stop="d") for prompt in PROMPTS]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]
    assert len({len(row) - len(prompt) for row, prompt in zip(together, PROMPTS, strict=True)}) > 1


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_a_left_padded_tensor_is_continued_as_its_prompts(tiny, kind):
    ids, mask = left_padded(PROMPTS)
    rows = tiny.generate(ids, max_new_tokens=9, attention_mask=mask.to(kind))
    assert rows.shape == (3, ids.shape[1] + 9)
    assert torch.equal(rows[:, : ids.shape[1]], ids)
    for row, prompt in zip(rows, PROMPTS, strict=True):
        assert row[ids.shape[1] - len(prompt) :].tolist() == tiny.generate(prompt, max_new_tokens=9).tolist()


def test_a_mask_of_ones_changes_nothing(tiny):
    ids = torch.tensor(PROMPTS[:1])
    assert torch.equal(
        tiny.generate(ids, max_new_tokens=4, attention_mask=torch.ones_like(ids)), tiny.generate(ids, max_new_tokens=4)
    )


def test_each_text_ends_at_the_context(write_checkpoint):
    import bitnet_jit

    decoder = bitnet_jit.load(write_checkpoint(eos_token_id=None))
    assert [len(row) for row in decoder.generate([[1, 2, 3], [1] * 60])] == [64, 64]


IDS, MASK = left_padded(PROMPTS)
BAD = {
    "an empty prompt": ({"input_ids": [[1], []]}, r"input_ids: expected at least one token, .* \(in prompt 1\)"),
    "out of range": ({"input_ids": [[1], [2, 256]]}, r"input_ids: expected ids from 0 to 255, got 256 \(in prompt 1\)"),
    "too long": ({"input_ids": [[1], [2] * 1025]}, r"input_ids: 1025 tokens, .* room for 1024 \(in prompt 1\)"),
    "no room": ({"input_ids": [[1], [2] * 1024]}, "input_ids: a prompt of 1024 tokens fills the model's context"),
    "many tokens": (
        {"input_ids": [[1], [2] * 1000], "max_new_tokens": 25},
        "max_new_tokens: expected 1 to 24, .* got 25",
    ),
    "right padding": (
        {"input_ids": IDS, "attention_mask": MASK.flip(1)},
        "attention_mask: expected zeros, then .* row 0",
    ),
    "a hole": (
        {"input_ids": [[1, 2, 3]], "attention_mask": torch.tensor([[1, 0, 1]])},
        r"attention_mask: .* got \[1, 0, 1\] in row 0",
    ),
    "a mask of nothing": (
        {"input_ids": [[1, 2]], "attention_mask": torch.tensor([[0, 0]])},
        r"attention_mask: .* got \[0, 0\] in row 0",
    ),
    "a mask of twos": (
        {"input_ids": [[1, 2]], "attention_mask": torch.tensor([[0, 2]])},
        r"attention_mask: .* got \[0, 2\] in row 0",
    ),
    "a short mask": (
        {"input_ids": [[1, 2]], "attention_mask": torch.ones(1, 3, dtype=torch.int64)},
        r"attention_mask: expected the shape of input_ids, \(1, 2\), got \(1, 3\)",
    ),
    "a mask of floats": (
        {"input_ids": [[1, 2]], "attention_mask": torch.ones(1, 2)},
        "attention_mask: expected a tensor of zeros and ones",
    ),
    "a mask in a list": ({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}, r"attention_mask: .* got \[\[1, 1\]\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_prompts_are_named(tiny, case):
    options, words = BAD[case]
    with pytest.raises(InvalidInput, match=words):
        tiny.generate(**options)
