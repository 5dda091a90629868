"""The decoder on a GPU: the same layers, and a continuation as near as another machine's norms let it be."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA or ROCm device here"),
]
PROMPT = list(b"And it came to pass ")


@pytest.mark.parametrize("way", ["load", "move"])
def test_logits_are_near_those_of_the_cpu(tiny, way, kjv):
    decoder = bitnet_jit.load(embedded_model(), device="cuda" if way == "load" else None).to("cuda")
    assert {parameter.device.type for parameter in decoder.parameters()} == {"cuda"}
    difference = (decoder(kjv[:4]).cpu() - tiny(kjv[:4])).abs()
    assert difference.mean() < 0.1
    assert difference.max() < 0.6


def test_it_writes(tiny):
    decoder = bitnet_jit.load(embedded_model(), device="cuda")
    greedy = decoder.generate([PROMPT, PROMPT], max_new_tokens=30, stop="\n")
    assert greedy.device.type == "cuda"
    assert bytes(greedy[0].tolist()).startswith(b"And it came to pass after the ")
    first, again = (list(decoder.stream(PROMPT, max_new_tokens=20, temperature=1.0, seed=3)) for _ in range(2))
    assert first == again
    back = decoder.to("cpu")
    assert back.generate(PROMPT, max_new_tokens=20).tolist() == tiny.generate(PROMPT, max_new_tokens=20).tolist()
