"""Norms of the heads of queries and keys: rows of any number, any step, and the layer that learns."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit import reference
from bitnet_jit.models.packed import HeadNorms
from bitnet_jit.models.trainable import TrainedAttention
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk
from bitnet_jit.training.settings import TrainSettings

EPS = 1e-6


def norms(heads, kv_heads, width, dtype=torch.float32):
    query, key = RMSNorm(width, EPS, dtype=dtype), RMSNorm(width, EPS, dtype=dtype)
    for norm in (query, key):
        torch.nn.init.uniform_(norm.weight, -2.0, 2.0)
    return HeadNorms(heads, kv_heads, query, key).requires_grad_(False)


@given(
    rows=st.sampled_from([1, 2, 3, 17, 33]),
    heads=st.sampled_from([1, 3, 4]),
    kv_heads=st.sampled_from([1, 2]),
    width=st.sampled_from([2, 6, 18, 64, 130]),
    large=st.sampled_from([0.0, 1e-30, 1.0, 1e15]),
)
def test_queries_and_keys_are_normalized_by_heads_and_values_stay(rows, heads, kv_heads, width, large):
    layer = norms(heads, kv_heads, width)
    x = torch.randn(rows, heads + 2 * kv_heads, width) * large
    y = layer(x.flatten(1)).view(x.shape)
    for part, norm in ((slice(0, heads), layer.query), (slice(heads, heads + kv_heads), layer.key)):
        expected = reference.rms_norm(x[:, part].reshape(-1, width).numpy(), norm.weight.numpy(), EPS)
        torch.testing.assert_close(y[:, part].reshape(-1, width), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    assert torch.equal(y[:, heads + kv_heads :], x[:, heads + kv_heads :])


def test_a_head_of_nan_leaves_the_others_alone():
    layer, x = norms(2, 1, 8), torch.randn(3, 4, 8)
    expected = layer(x.flatten(1)).view(x.shape)
    x[1, 0, 3] = float("nan")
    y = layer(x.flatten(1)).view(x.shape)
    assert y[1, 0].isnan().all()
    y[1, 0] = expected[1, 0]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_same_bits_in_one_step_and_token_by_token(write_checkpoint, dtype):
    decoder = bitnet_jit.load(write_checkpoint(model_type="qwen3"), dtype=dtype)
    ids = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(5))
    whole, cache = decoder(ids), decoder.new_cache(2)
    for place in range(ids.shape[1]):
        assert torch.equal(decoder(ids[:, place, None], cache)[:, 0], whole[:, place])


def test_recorded_steps_give_the_same_bits(write_checkpoint):
    decoder = bitnet_jit.load(write_checkpoint(model_type="qwen3"))
    ids = torch.randint(0, 256, (3, 17), generator=torch.Generator().manual_seed(6))
    whole, runner = decoder(ids), Runner(decoder, 8)
    sequences = [runner.cache.new_sequence() for _ in range(3)]
    runner.step([Chunk(sequence, row[:5]) for sequence, row in zip(sequences, ids.tolist(), strict=True)])
    for place in range(5, 17):
        assert torch.equal(runner.advance(sequences, ids[:, place]).logits, whole[:, place])


def test_a_layer_that_learns_has_gradients_of_its_head_norms():
    config = replace(TrainSettings(hidden_size=24, heads=3, kv_heads=1).decoder(), qk_norms=True, sub_norms=False)
    attention = TrainedAttention(config, torch.nn.Linear)
    tables = torch.ones(5, 1, config.head_dim), torch.zeros(5, 1, config.head_dim)
    attention(torch.randn(2, 5, 24), tables).square().sum().backward()
    for norm in (attention.q_norm, attention.k_norm):
        assert norm.weight.shape == (config.head_dim,)
        assert norm.weight.grad.isfinite().all()
        assert norm.weight.grad.abs().min() > 0
