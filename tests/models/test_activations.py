"""Blocks whose layers take other activations than int8 by rows, against their formula in float64."""

import pytest
import torch
from torch.nn import functional as F

import bitnet_jit
from bitnet_jit.models.packed import PackedAttention, PackedBlock, PackedFeedForward
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.ops import calls
from bitnet_jit.ops.program import record
from bitnet_jit.tuning.problems import problems_of_model

HIDDEN, MIDDLE, GROUP, EPS = 64, 96, 32, 1e-6


class FirstHead:
    """A store that mixes no tokens: it returns the queries."""

    def attend(self, layer, qkv):
        return qkv[:, :HIDDEN]


def layer(outputs, inputs, activation):
    codes = torch.randint(-1, 2, (outputs, inputs), dtype=torch.int8)
    scale = 0.1 + 0.1 * torch.rand(outputs, inputs // GROUP)
    return PackedBitLinear.from_codes(codes, scale, group_size=GROUP, activation=activation)


def norm(features):
    made = RMSNorm(features, EPS)
    torch.nn.init.uniform_(made.weight, 0.5, 2.0)
    return made.requires_grad_(False)


def block(activation, sub_norms):
    sub = [norm(width) if sub_norms else None for width in (HIDDEN, MIDDLE)]
    attention = PackedAttention(
        norm(HIDDEN), layer(3 * HIDDEN, HIDDEN, activation), sub[0], layer(HIDDEN, HIDDEN, activation)
    )
    middle = PackedFeedForward(
        norm(HIDDEN),
        layer(2 * MIDDLE, HIDDEN, activation),
        sub[1],
        layer(HIDDEN, MIDDLE, activation),
        "relu2" if sub_norms else "silu",
    )
    return PackedBlock(attention, middle)


def expected_of(made, x, sub_norms):
    def normed(module, x):
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * module.weight.double()

    def product(module, x):
        return x @ module.dequantize().double().T

    attention, middle = made.attention, made.feed_forward
    y = product(attention.qkv, normed(attention.norm, x))[:, :HIDDEN]
    x = x + product(attention.output, normed(attention.sub_norm, y) if sub_norms else y)
    gate, up = product(middle.gate_up, normed(middle.norm, x)).chunk(2, -1)
    y = normed(middle.sub_norm, F.relu(gate) ** 2 * up) if sub_norms else F.silu(gate) * up
    return x + product(middle.down, y)


@pytest.mark.parametrize("sub_norms", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize(("activation", "tolerance"), [("a16", 1e-5), ("a8g", 0.03), ("a8", 0.03)])
def test_a_block_computes_its_formula(activation, tolerance, rows, sub_norms):
    torch.manual_seed(rows)
    made, x, delta = block(activation, sub_norms), torch.randn(rows, HIDDEN), torch.randn(rows, HIDDEN)
    total, last = made((x, delta), FirstHead(), 0)
    expected = expected_of(made, x.double() + delta.double(), sub_norms)
    assert (total + last - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("sub_norms", [False, True])
@pytest.mark.parametrize("activation", ["a16", "a8g"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_does_not_depend_on_those_beside_it(dtype, activation, sub_norms):
    torch.manual_seed(5)
    made, (x, delta) = block(activation, sub_norms), torch.randn(2, 37, HIDDEN).to(dtype)
    whole = made((x, delta), FirstHead(), 0)
    for first, end in ((0, 1), (36, 37), (0, 17), (3, 8)):
        part = made((x[first:end], delta[first:end]), FirstHead(), 0)
        assert all(torch.equal(a, b[first:end]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("activation", ["a16", "a8g"])
@pytest.mark.parametrize(
    ("sub_norms", "before"),  # each layer
    [
        (False, ("add_rms_norm", None, "add_rms_norm", "silu_mul_norm")),
        (True, ("add_rms_norm", "rms_norm", "add_rms_norm", "relu2_mul_norm")),
    ],
)
def test_a_block_holds_no_operations_of_torch(sub_norms, before, activation):
    made, stream = block(activation, sub_norms), tuple(torch.randn(2, 3, HIDDEN))
    run, _ = record(lambda: made(stream, FirstHead(), 0))
    names = [name for name in run.recorder.names if name != "copy"]  # the store's part of qkv
    assert names == [step for name in before for step in (name, "bit_linear") if step]


@pytest.mark.parametrize("activation", ["a16", "a8g"])
def test_the_problems_of_such_a_decoder_are_those_that_it_asks_for(write_checkpoint, activation):
    def regroup(name, old):
        codes, _ = old.unpack()
        scale = torch.ones(len(codes), old.in_features // GROUP)
        return PackedBitLinear.from_codes(codes, scale, group_size=GROUP, activation=activation)

    decoder = replace(bitnet_jit.load(write_checkpoint(model_type="qwen3")), (PackedBitLinear,), regroup)
    result = problems_of_model(decoder, [3])
    assert {problem.activation for problem in result if problem.op == "bit_linear"} == {activation}
    calls.forget()
    decoder(torch.zeros(3, 1, dtype=torch.int64))
    assert set(result) == set(calls.DISPATCHER.problems())
