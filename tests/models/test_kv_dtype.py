"""The dtype of cached keys and values: by a word of `load`, in pages and in a cache of prompts alike."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.kv_dtype import CACHES, kv_dtype
from bitnet_jit.runner.runner import Runner

PROMPT = list(b"And it came to pass ")
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("word", CACHES)
def test_caches_have_the_dtype_that_is_asked_for(word, dtype):
    decoder = bitnet_jit.load(dtype=dtype, cache=word)
    expected = dtype if word == "auto" else getattr(torch, word)
    assert decoder.cache_dtype == expected
    assert decoder.dtype == dtype
    for cache in (decoder.new_cache(), Runner(decoder, 2).cache):
        assert {tensor.dtype for tensor in (*cache.pages.keys, *cache.pages.values)} == {expected}
        scales = [*cache.pages.key_scale, *cache.pages.value_scale]
        assert len(scales) == (2 * decoder.config.num_layers if word == "int8" else 0)
    assert bytes(decoder.generate(PROMPT, max_new_tokens=5).tolist()) == b"And it came to pass after"


def test_a_cache_of_int8_grows_with_its_scales(kjv):
    decoder = bitnet_jit.load(cache="int8")
    ids = kjv[:2, :150]
    small, large = decoder.new_cache(2, 1), decoder.new_cache(2, 150)
    parts = [decoder(part, small) for part in ids.split((20, 60, 70), 1)]
    assert torch.equal(torch.cat(parts, 1), decoder(ids, large))
    assert small.num_bytes >= large.num_bytes


def test_losses_are_those_of_a_cache_of_floats(tiny, kjv):
    ids = kjv[:4, :128]
    quantized = bitnet_jit.load(cache="int8")
    losses = [
        torch.nn.functional.cross_entropy(decoder(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        for decoder in (tiny, quantized)
    ]
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.01 * losses[0]


@pytest.mark.parametrize("word", ["int4", "", "INT8", None, 8, torch.int8])
def test_other_words_are_refused(word):
    with pytest.raises(InvalidInput, match="cache: expected one of auto, float32, bfloat16, int8, got"):
        bitnet_jit.load(cache=word)


def test_int8_is_refused_where_only_the_plain_kernel_runs_it():
    for device in ("cuda:0", "xpu:0"):
        with pytest.raises(
            InvalidInput, match=f"cache: 'int8' is not for {device} .*use 'auto', 'float32' or 'bfloat16'"
        ):
            kv_dtype("int8", torch.float32, torch.device(device))
        assert kv_dtype("bfloat16", torch.float32, torch.device(device)) == torch.bfloat16
    assert kv_dtype("int8", torch.float32, torch.device("mps:0")) == torch.int8  # Metal's kernel takes it


def test_a_saved_model_does_not_remember_its_cache(tmp_path):
    decoder = bitnet_jit.load(cache="int8")
    bitnet_jit.save(decoder, tmp_path / "saved", "i2")
    assert bitnet_jit.load(tmp_path / "saved").cache_dtype == torch.float32


def test_a_record_of_a_step_asks_for_attention_over_int8():
    from bitnet_jit.tuning.problems import problems_of_model

    problems = problems_of_model(bitnet_jit.load(cache="int8"), (1,))
    assert {problem.cache_dtype for problem in problems if problem.op == "paged_attention"} == {"int8"}
