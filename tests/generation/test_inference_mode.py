"""Texts are the same in torch's inference mode and outside, whatever was done in which of them before."""

from contextlib import nullcontext

import pytest
import torch

import bitnet_jit
from bitnet_jit.ops.program import record

MODES = {"inference": torch.inference_mode, "plain": nullcontext}
PROMPTS = [list(b"And it came to pass "), list(b"In the beginning "), list(b"The ")]


@pytest.mark.parametrize("loaded", MODES)
@pytest.mark.parametrize("order", [("inference", "plain"), ("plain", "inference"), ("inference", "inference")])
@pytest.mark.parametrize("head", ["checkpoint", "int8"])
def test_texts_are_the_same_in_inference_mode(write_checkpoint, loaded, order, head):
    folder = write_checkpoint(vocab_size=256)  # in bfloat16, so that embeddings are converted in every step
    expected = bitnet_jit.load(folder, head=head).generate(PROMPTS, max_new_tokens=9)
    with MODES[loaded]():
        decoder = bitnet_jit.load(folder, head=head)
    for mode in order:
        with MODES[mode]():
            texts = decoder.generate(PROMPTS, max_new_tokens=9)
            alone = decoder.generate(PROMPTS[0], max_new_tokens=9)
        assert all(map(torch.equal, texts, expected))
        assert torch.equal(alone, expected[0])


@pytest.mark.parametrize("mode", MODES)
def test_operations_that_may_copy_are_recorded(mode):
    with MODES[mode]():
        x = torch.zeros(4, 6, dtype=torch.bfloat16)
        run, (wide, turned, same) = record(lambda: (x.to(torch.float32), x.T.reshape(-1), x.to(torch.bfloat16)))
        x.copy_(torch.arange(24).view(4, 6))
        run()
        assert torch.equal(wide, x.float())
        assert torch.equal(turned, x.T.contiguous().view(-1))
        assert torch.equal(same, x)
