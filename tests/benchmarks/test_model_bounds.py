"""Bounds of whole models, their random weights, turns, memory and reports."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.harness.models import bounds, memory, report
from benchmarks.harness.models.random_weights import RandomReader
from benchmarks.harness.models.shapes import BITNET_2B, QWEN3_8B, SHAPES, llama_config
from benchmarks.harness.models.turns import Seconds, Timed, take_turns
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.ternary import empty_i2
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing.i2 import I2

I2_BF16 = bounds.Storage(2, 2, 4)
SMALL = llama_config(96, 256, 512, 2, 4, 2, 64, 10000.0)


def test_a_model_of_2_billion_weights_needs_what_its_sizes_say():
    per_block = 2560 * (2560 + 640 + 640) + 2560 * 2560 + 3 * 2560 * 6912
    assert bounds.num_weights(BITNET_2B) == 30 * per_block == 2_084_044_800
    one = bounds.decode_demand(BITNET_2B, I2_BF16, 0, 1)
    assert one.num_bytes == 30 * per_block / 4 + 2 * 128256 * 2560
    assert one.num_ops == 2 * 30 * per_block
    behind = bounds.decode_demand(BITNET_2B, I2_BF16, 4096, 16)
    assert behind.num_bytes - one.num_bytes == 16 * 4096 * 30 * 2 * 5 * 128 * 4
    assert behind.num_ops == 16 * one.num_ops
    prompt = bounds.prefill_demand(BITNET_2B, I2_BF16, 512)
    assert (prompt.num_ops, prompt.num_bytes - one.num_bytes) == (512 * one.num_ops, 512 * 30 * 2 * 5 * 128 * 4)


def test_scales_of_groups_and_an_int8_head_count():
    storage = bounds.Storage(2 + 32 / 128, 1, 4)
    demand = bounds.decode_demand(QWEN3_8B, storage, 0, 1)
    codes, head = bounds.num_weights(QWEN3_8B) / 4, 151936 * 4096
    assert demand.num_bytes == pytest.approx(codes + bounds.num_weights(QWEN3_8B) / 128 * 4 + head)


def test_the_nearer_limit_decides():
    rates = bounds.Rates(read=100.0, peak=1000.0)
    assert bounds.Demand(200, 1000).min_seconds(rates) == 2.0
    assert bounds.Demand(200, 1000).nearer_limit(rates) == "read"
    assert bounds.Demand(200, 3000).min_seconds(rates) == 3.0
    assert bounds.Demand(200, 3000).nearer_limit(rates) == "peak"
    assert bounds.Demand(200, 3000).min_seconds(bounds.Rates(100.0, 0.0)) == 2.0


def test_what_stays_in_memory():
    """A tied head is the embedding; another one stands beside an embedding of 16 bits."""
    for config, storage in ((BITNET_2B, I2_BF16), (QWEN3_8B, bounds.Storage(2, 1, 4))):
        held = bounds.resident_bytes(config, storage, 100)
        beside = 0 if config is BITNET_2B else 2 * 151936 * 4096
        assert held - bounds.decode_demand(config, storage, 100, 1).num_bytes == beside


@pytest.mark.parametrize("group_size", [0, 128])
def test_random_weights_are_ternary_scaled_and_the_same_each_time(group_size):
    layer, shape = LinearName("blocks.1.feed_forward.down", 33, 512, False), (33, 512)
    first, second = (RandomReader(SMALL, group_size).ternary(layer, empty_i2(*shape)) for _ in range(2))
    assert torch.equal(first.w_packed, second.w_packed)
    assert torch.equal(first.w_scale, second.w_scale)
    w_q = I2.unpack(first.w_packed, 512)
    assert [(w_q == code).float().mean().item() for code in (-1, 0, 1)] == pytest.approx([1 / 3] * 3, abs=0.02)
    assert first.w_scale.shape == ((33, 4) if group_size else ())
    assert torch.equal(first.w_scale, first.w_scale.half().float())
    assert first.w_scale.min() > 0
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    scale = first.w_scale.repeat_interleave(group_size, 1) if group_size else first.w_scale
    assert 0.5 < (x @ (w_q * scale).T).std() < 2
    other = RandomReader(SMALL, group_size).ternary(
        LinearName("blocks.0.feed_forward.down", 33, 512, False), empty_i2(*shape)
    )
    assert not torch.equal(first.w_packed, other.w_packed)


def test_random_embeddings_fit_both_halves_and_norms_have_their_widths():
    reader = RandomReader(SMALL)
    head = reader.dense("head")
    assert (head.shape, head.dtype) == ((96, 256), torch.bfloat16)
    assert torch.equal(head.float(), head.half().float())
    assert not torch.equal(head, reader.dense("embedding"))
    sub_norms = replace(SMALL, qk_norms=True, sub_norms=True)
    reader = RandomReader(sub_norms)
    widths = {
        "blocks.0.attention.q_norm": 64,
        "blocks.0.attention.k_norm": 64,
        "norm": 256,
        "blocks.0.attention.sub_norm": 256,
        "blocks.0.feed_forward.sub_norm": 512,
    }
    assert {name: len(reader.dense(name)) for name in widths} == widths


def test_inputs_that_fill_no_group_are_refused():
    with pytest.raises(InvalidInput, match="512 inputs are no multiple of four and of group_size=96"):
        RandomReader(llama_config(96, 384, 512, 2, 6, 2, 64, 1e4), 96)


def test_every_shape_has_a_reader():
    for shape in SHAPES.values():
        config = shape.open_reader().config
        assert config.num_heads % config.num_kv_heads == 0, shape.name


def test_contenders_take_turns_and_the_least_counts():
    calls, threads = [], []

    def timed(name, seconds):
        left = iter(seconds)

        def run():
            calls.append(name)
            return next(left)

        return Timed(name, run, threads.append)

    times = take_turns([timed("a", [3.0, 1.0, 2.0]), timed("b", [5.0, 6.0, 7.0])], 2, 3)
    assert calls == ["a", "b"] * 3
    assert threads == [2] * 6
    assert (times["a"].least, times["a"].median, times["b"].least) == (1.0, 2.0, 5.0)


def test_the_peak_of_memory_is_that_of_the_work():
    result, peak = memory.with_peak(lambda: int(np.ones(1 << 26, np.uint8).sum()), "cpu")
    assert result == 1 << 26
    if peak is None:
        pytest.skip("the system does not tell the peak of resident memory")
    assert (1 << 26) * 0.9 < peak < (1 << 26) * 2


def test_a_row_compares_with_the_bound_of_its_contender():
    case = report.Case("decode", "a", "int8", 1, 16, 4)
    row = report.make_row(case, "b", Seconds((0.5, 0.25, 1.0)), bounds.Demand(10, 1), bounds.Rates(80.0, 0.0))
    assert (row.tokens_per_s, row.median_tokens_per_s, row.ms) == (16.0, 8.0, 250.0)
    assert (row.share_of_bound, row.limit, row.case) == (0.5, "read", case)
    prompt = report.make_row(
        report.Case("prefill", "a", "int8", 1, 100, 1), "b", Seconds((0.5,)), bounds.Demand(1, 1), bounds.Rates(0, 0)
    )
    assert (prompt.tokens_per_s, prompt.share_of_bound, prompt.limit) == (200.0, None, None)
