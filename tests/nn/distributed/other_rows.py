"""Checks in which each process has other rows, or uses other layers: sums over rows then have another order."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from common import IN, OUT, ROWS, WORLD, assert_all_have, assert_same, batch, loss_of, mlp, shard, train, whole
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bitnet_jit import BitLinear


def gradients_of_halves(device, wrap, autocast=False, parts=1):
    """Check gradients where each process has half of the rows, in parts whose gradients it sums before they meet."""
    plain, model = mlp(device), mlp(device)
    (x, target), rank = batch(device), dist.get_rank()
    y, loss = loss_of(plain, x, target, autocast)
    y.retain_grad()
    loss.backward()
    wrapped = DistributedDataParallel(model) if wrap == "ddp" else shard(model, device)
    half = [tensor.chunk(WORLD)[rank] for tensor in (x, target)]
    rows = y.chunk(WORLD)[rank].chunk(parts)
    for i, (part, wanted) in enumerate(zip(*(tensor.chunk(parts) for tensor in half), strict=True)):
        last = i == parts - 1
        if wrap == "fsdp":
            model.set_requires_gradient_sync(last)
        with nullcontext() if last or wrap == "fsdp" else wrapped.no_sync():
            outputs, loss = loss_of(wrapped, part, wanted, autocast)
            assert_same([outputs], [rows[i]])
            (loss / parts).backward()
    bounds = rounding(plain, x, y.grad, autocast)
    for parameter, expected, bound in zip(model.parameters(), plain.parameters(), bounds, strict=True):
        error = whole(parameter.grad).double() - whole(expected.grad)
        assert (error.abs() <= bound).all(), f"{(error.abs() / bound).max()} of what rounding explains"
    train(model, lambda: loss_of(wrapped, *half, autocast))
    assert_all_have([whole(parameter) for parameter in model.parameters()], device)


def rounding(model, x, dy, autocast):
    """Bound how far two gradients of each parameter may lie apart that sum the same terms, all products, in any order.

    A sum of n terms in float32 is off by n roundings, 2**-24 of the terms' magnitudes each, and is rounded to dy's
    dtype once; the error of a layer's dX is passed down with it. Between the processes and their parts is one more sum.
    """
    layers, inputs = [module for module in model.modules() if isinstance(module, BitLinear)], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    loss_of(model, x, 0, autocast)
    terms = ROWS + WORLD + 2 + sum(layer.out_features for layer in layers)
    relative = terms * torch.finfo(torch.float32).eps + (len(layers) + 1) * torch.finfo(dy.dtype).eps
    ops, above, bounds = torch.ops.bitnet_jit, dy.abs().double(), []
    for layer, seen in zip(reversed(layers), reversed(inputs), strict=True):
        if layer.bias is not None:
            bounds.append(above.sum(0))
        bounds.append(above.T @ ops.round_activation(seen.detach().to(dy.dtype)).abs().double())
        above = above @ ops.round_weight(layer.weight.detach()).abs().double()
    return [whole(relative * bound) for bound in reversed(bounds)]


class Forked(nn.Module):
    """One layer per process, which the others do not use, and one for all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(BitLinear(IN, 37) for _ in range(WORLD))
        self.head = BitLinear(37, OUT)

    def forward(self, x, which):
        return self.head(F.relu(self.branches[which](x)))


def layers_that_a_process_does_not_use(device):
    """Check that a gradient on one process averages with none on the other to half of it."""
    plain, model, x = Forked().to(device), Forked().to(device), batch(device)[0]
    expected = {name: torch.zeros_like(parameter) for name, parameter in plain.named_parameters()}
    for which in range(WORLD):
        plain.zero_grad()
        plain(x, which).square().mean().backward()
        for name, parameter in plain.named_parameters():
            expected[name] += 0 if parameter.grad is None else parameter.grad / WORLD
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    wrapped(x, dist.get_rank()).square().mean().backward()
    assert_same([parameter.grad for parameter in model.parameters()], expected.values())
