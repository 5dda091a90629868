"""On a GPU: masks, texts by a schema and embeddings, each as it is alone."""

import json
import math

import jsonschema
import pytest
import torch

import bitnet_jit
from bitnet_jit.engine import Grammar, InferenceEngine
from bitnet_jit.generation.masks import apply_masks, mask_words
from bitnet_jit.generation.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device"),
]
SCHEMA = {"type": "array", "items": {"enum": ["Abraham", "Isaac", 7]}, "minItems": 2, "maxItems": 4}
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=1), Sampling(temperature=1.0, top_k=7, seed=2, logprobs=2)]


@pytest.fixture(scope="module")
def engine():
    with InferenceEngine() as engine:
        engine.add_model("tiny", bitnet_jit.load(device="cuda"))
        yield engine


@pytest.mark.parametrize("vocab_size", [1, 31, 33, 256, 1009])
def test_masks_are_those_of_the_cpu(vocab_size):
    logits = torch.randn(5, vocab_size)
    masks = torch.randint(-(2**31), 2**31 - 1, (5, mask_words(vocab_size)), dtype=torch.int32)
    on_gpu = logits.cuda()
    apply_masks(on_gpu, masks.cuda())
    apply_masks(logits, masks)
    assert torch.equal(on_gpu.cpu(), logits)
    assert (logits == -math.inf).any() or vocab_size == 1


@pytest.mark.parametrize("speculate", [None, "ngram"])
def test_texts_by_a_schema_beside_others(engine, speculate):
    grammar = Grammar.json_schema(SCHEMA)
    plain = [engine.submit("tiny", "And he said, ", 40, sampling) for sampling in SAMPLINGS]
    texts = [
        engine.submit("tiny", "And he said, ", 200, sampling, grammar=grammar, speculate=speculate)
        for sampling in SAMPLINGS
    ]
    for sampling, generation, text in zip(SAMPLINGS, plain, texts, strict=True):
        completion = text.result()
        assert completion.finish_reason == "stop"
        jsonschema.validate(json.loads(completion.text), SCHEMA)
        alone = engine.submit("tiny", "And he said, ", 200, sampling, grammar=grammar).result()
        assert alone.tokens == completion.tokens
        assert engine.submit("tiny", "And he said, ", 40, sampling).result().tokens == generation.result().tokens


def test_embeddings_are_the_same_alone(engine):
    texts = ["x", "In the beginning ", "And it came to pass " * 20]
    beside = engine.submit("tiny", "And he said, ", 60)
    together = engine.embed("tiny", texts * 3)
    beside.result()
    for index, text in enumerate(texts):
        assert torch.equal(engine.embed("tiny", [text])[0], together[index + 3])
    cpu = bitnet_jit.load()
    with InferenceEngine() as other:
        other.add_model("tiny", cpu)
        assert torch.nn.functional.cosine_similarity(other.embed("tiny", texts), together[:3]).min() > 0.999
