"""A decoder under autocast gives the same results as without: in its dtype, with float32 logits."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.models.precision import without_autocast

PROMPTS = torch.tensor([list(b"In the beginning "), list(b"And it came to pa")])


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def decoder(request):
    return bitnet_jit.load(embedded_model(), dtype=request.param)


@pytest.fixture(params=["bfloat16", "float16", "inference mode", "autocast of another device"])
def context(request):
    if request.param == "inference mode":
        return torch.inference_mode
    if request.param == "autocast of another device":
        return lambda: torch.amp.autocast_mode.autocast("xpu", torch.bfloat16, enabled=torch.xpu.is_available())
    return lambda: torch.autocast("cpu", getattr(torch, request.param))


def computed(decoder):
    cache = decoder.new_cache(len(PROMPTS))
    first = decoder(PROMPTS[:, :9], cache)
    hidden = decoder.hidden(PROMPTS[:, 9:], cache)
    return first, hidden, decoder.logits(hidden), decoder(PROMPTS)


def test_logits_and_hidden_states(decoder, context):
    expected = computed(decoder)
    with context():
        results = computed(decoder)
    for one, other in zip(results, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert results[0].dtype == results[2].dtype == results[3].dtype == torch.float32


def test_tokens(decoder, context):
    expected = decoder.generate(PROMPTS, max_new_tokens=6)
    drawn = decoder.generate(PROMPTS, max_new_tokens=6, temperature=0.7, top_p=0.9, seed=3)
    with context():
        assert torch.equal(decoder.generate(PROMPTS, max_new_tokens=6), expected)
        assert torch.equal(decoder.generate(PROMPTS, max_new_tokens=6, temperature=0.7, top_p=0.9, seed=3), drawn)
        assert list(decoder.stream(PROMPTS[0], max_new_tokens=6)) == expected[0, PROMPTS.shape[1] :].tolist()


def test_autocast_is_in_force_again_afterwards(decoder):
    with torch.autocast("cpu", torch.bfloat16):
        decoder(PROMPTS)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_nothing_is_entered_where_nothing_is_autocast():
    assert not isinstance(without_autocast(torch.device("cpu")), torch.autocast)
    assert not isinstance(without_autocast(torch.device("meta")), torch.autocast)
