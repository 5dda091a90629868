"""A decoder that learns: checkpointing, autocast and torch.compile leave its loss and its gradients the same."""

import shutil

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from imports of torch.compile

SETTINGS = TrainSettings(
    layers=2, hidden_size=32, intermediate_size=48, heads=2, kv_heads=1, context_length=64, window=24
)
WINDOWS = torch.randint(256, (3, 25), generator=torch.Generator().manual_seed(1))


class Checkpointed(nn.Module):
    """A block whose activations are computed anew in the backward pass."""

    def __init__(self, block, reentrant):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, *args):
        return checkpoint(self.block, *args, use_reentrant=self.reentrant)


def network(reentrant=None):
    decoder = TrainedDecoder(SETTINGS.decoder())
    if reentrant is not None:
        decoder.model.layers = nn.ModuleList(Checkpointed(block, reentrant) for block in decoder.model.layers)
    return decoder


def loss_and_gradients(decoder, loss, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(WINDOWS)
    value.backward()
    return value.detach(), *(parameter.grad for parameter in decoder.parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_change_no_bit(reentrant, autocast):
    plain, decoder = network(), network(reentrant)
    calls = []
    for block in decoder.model.layers:
        block.block.mlp.up_proj.register_forward_pre_hook(lambda *_: calls.append(1))
    results = loss_and_gradients(decoder, decoder.loss, autocast)
    for a, b in zip(results, loss_and_gradients(plain, plain.loss, autocast), strict=True):
        assert torch.equal(a, b)
    assert len(calls) == 2 * SETTINGS.layers


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reentrant", [None, False])
def test_compiled_whole_it_is_the_same_to_the_bit(reentrant, autocast):
    torch._dynamo.reset()
    plain, decoder = network(), network(reentrant)
    compiled = torch.compile(decoder.loss, fullgraph=True, backend="aot_eager")
    results = loss_and_gradients(decoder, compiled, autocast)
    for a, b in zip(results, loss_and_gradients(plain, plain.loss, autocast), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++, which is not installed")
def test_compiled_by_inductor_it_is_near():
    """Compare within a flipped code, 1/127 of the greatest value in its row: inductor differs in the last bits."""
    torch._dynamo.reset()
    plain, decoder = network(), network(reentrant=False)
    results = loss_and_gradients(decoder, torch.compile(decoder.loss, fullgraph=True), False)
    for a, b in zip(results, loss_and_gradients(plain, plain.loss, False), strict=True):
        assert (a - b).norm() <= b.norm() / 127
