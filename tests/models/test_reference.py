"""The embedded model against results of transformers with it."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def test_logits_are_near(tiny, reference):
    logits = tiny(torch.tensor(reference["input_ids"])[None])
    assert logits.shape == (1, 72, 256)
    assert logits.dtype == torch.float32
    difference = np.abs(logits[0].numpy() - reference["logits"])
    assert difference.mean() < 0.1
    assert difference.max() < 0.6


def test_greedy_continuation_is_the_same_or_forks_at_a_near_tie(tiny, reference, make_twin, embedded_for_transformers):
    expected = torch.tensor(reference["greedy"])
    tokens = tiny.generate(torch.tensor(reference["greedy_prompt"]), max_new_tokens=100)
    assert tokens.shape == expected.shape
    different = (tokens != expected).nonzero()
    if len(different):
        fork = int(different[0])
        with torch.no_grad():
            first, second = make_twin(embedded_for_transformers)(expected[None, :fork]).logits[0, -1].topk(2).values
        assert first - second < 0.3


def test_bits_per_byte(tiny, reference, kjv):
    successors = kjv.flatten()[1:]
    logits = torch.cat([tiny(rows) for rows in kjv.split(8)]).reshape(-1, 256)[:-1]
    bits_per_byte = float(F.cross_entropy(logits, successors)) / math.log(2)
    assert abs(bits_per_byte - reference["val_bpb_16k"]) < 0.002
