"""Rotary positions, attention and the cache, each against a plain spelling of its formula."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.hf_config import read_config
from bitnet_jit.models.attention import attend
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.models.rope import Rope, frequencies, rotate
from bitnet_jit.models.rope_scaling import Llama3Scaling

CONFIG, _ = read_config(embedded_model() / "config.json")


def test_frequencies():
    plain = frequencies(8, 10000.0, None)
    assert torch.allclose(plain, torch.tensor([10000.0 ** (-2 * i / 8) for i in range(4)]))


def test_llama3_frequencies_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, **scaling},
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    assert torch.allclose(frequencies(128, 500000.0, Llama3Scaling(8.0, 1.0, 4.0, 512)), expected, rtol=1e-6, atol=0)


def test_rotation_turns_pairs_by_position():
    rope = Rope(replace(CONFIG, head_dim=4, rope_theta=100.0))
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 3, 1, 4)
    rotated = rotate(x, *(table[5:] for table in rope.tables(8)))
    for step in range(3):
        for pair, frequency in enumerate((1.0, 0.1)):
            angle = (5 + step) * frequency
            first, second = 1.0 + pair, 3.0 + pair
            assert rotated[0, step, 0, pair] == pytest.approx(
                first * math.cos(angle) - second * math.sin(angle), abs=1e-5
            )
            assert rotated[0, step, 0, pair + 2] == pytest.approx(
                second * math.cos(angle) + first * math.sin(angle), abs=1e-5
            )


def test_cosines_and_sines_grow_and_keep_their_values():
    rope, cpu = Rope(CONFIG), torch.device("cpu")
    before = rope.rotary(9, cpu)
    assert before.shape == (16, CONFIG.head_dim)
    after = rope.rotary(500, cpu)
    assert after.shape == (512, CONFIG.head_dim)
    assert torch.equal(after[:16], before)
    assert rope.rotary(9, cpu) is after


@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    tokens=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_attention(batch, kv_heads, group, tokens, seed):
    rng = torch.Generator().manual_seed(seed)
    head_dim = 4
    query = torch.randn(batch, tokens, kv_heads * group, head_dim, generator=rng)
    keys, values = torch.randn(2, batch, tokens, kv_heads, head_dim, generator=rng)
    y = attend(query, keys, values).view(query.shape)
    for head in range(kv_heads * group):
        for token in range(tokens):
            seen = slice(0, token + 1)
            k, v = keys[:, seen, head // group].double(), values[:, seen, head // group].double()
            weights = (k @ query[:, token, head, :, None].double() / math.sqrt(head_dim)).softmax(1)
            assert torch.allclose(y[:, token, head].double(), (weights * v).sum(1), atol=1e-5)


def test_cache_keeps_what_was_put():
    config = replace(CONFIG, num_layers=2)
    qkv = torch.randn(2, 2, 150, config.q_features + 2 * config.kv_features)
    rotary = Rope(config).rotary(150, torch.device("cpu"))
    grown, roomy = (KVCache(config, 2, size, torch.float32, torch.device("cpu")) for size in (1, 150))
    for start, stop in ((0, 3), (3, 4), (4, 70), (70, 150)):
        parts = []
        for cache in (grown, roomy):
            cache.reserve(stop - start)
            store = cache.store(stop - start, rotary)
            parts.append([store.attend(layer, qkv[layer, :, start:stop].flatten(0, 1)) for layer in range(2)])
            cache.advance(stop - start)
        assert all(map(torch.equal, *parts))
    assert (grown.length, grown.capacity, grown.batch_size) == (150, 256, 2)
    assert grown.num_bytes == 2 * 2 * 2 * config.kv_features * 256 * 4


def test_cache_rounds_up_to_no_more_than_the_context():
    sizes = {
        wanted: KVCache(CONFIG, 1, wanted, torch.float32, torch.device("cpu")).capacity for wanted in (1, 65, 1000)
    }
    assert sizes == {1: 64, 65: 128, 1000: 1024}
    small = replace(CONFIG, context_length=100)
    assert KVCache(small, 1, 70, torch.float32, torch.device("cpu")).capacity == 128
