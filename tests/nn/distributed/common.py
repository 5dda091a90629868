"""Small models that two processes train, their training, and comparisons to the bit."""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from bitnet_jit import BitLinear

WORLD = 2
IN, OUT, ROWS, STEPS = 70, 5, 16, 4  # ROWS divides by the processes and their parts: means then differ by powers of two
RATES = {"lr": 2.0**-3, "momentum": 2.0**-1}  # whose products are exact, so that a step rounds the same fused or not

compiled = partial(torch.compile, backend="aot_eager")


def mlp(device, use_rms_norm=False):
    """Return three layers; the rows of two of them do not divide by the number of processes, and one has no bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(BitLinear(IN, 64), nn.ReLU()),
        nn.Sequential(BitLinear(64, 37, bias=False, use_rms_norm=use_rms_norm), nn.ReLU()),
        BitLinear(37, OUT, use_rms_norm=use_rms_norm),
    ).to(device)


def batch(device):
    """Return x (ROWS, IN) and the outputs that the layers shall learn, (ROWS, OUT)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, IN, generator=generator)
    return x.to(device), x[:, :OUT].to(device)


def loss_of(run, x, target, autocast):
    """Return the outputs of a model and their mean squared error."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        y = run(x)
    return y, (y.float() - target).square().mean()


def train(model, loss):
    """Train for some steps on `loss()`, an output and its loss; return all outputs, all gradients and the weights."""
    optimizer, tensors, losses = torch.optim.SGD(model.parameters(), **RATES), [], []
    for _ in range(STEPS):
        y, value = loss()
        optimizer.zero_grad()
        value.backward()
        tensors += [whole(tensor) for tensor in (y, *(parameter.grad for parameter in model.parameters()))]
        losses.append(value.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    return tensors + [whole(parameter) for parameter in model.parameters()]


def whole(tensor):
    """Return a copy of a tensor as one process has it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def assert_same(tensors, expected):
    """Assert that two lists of tensors are the same to the bit."""
    for a, b in zip(tensors, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_all_have(tensors, device):
    """Assert that every process has the same tensors to the bit."""
    mine = torch.cat([tensor.flatten() for tensor in tensors]).to(device)
    everybodys = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everybodys, mine)
    assert_same(everybodys, [mine] * WORLD)


def shard(model, device, keep=False, low=False, offload=False, run="eager"):
    """Apply FSDP2 to each part of a model and to the rest; it may keep whole weights until the backward pass."""
    options = {"mesh": init_device_mesh(device.type, (WORLD,)), "reshard_after_forward": not keep}
    if low:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    for part in model:
        if run == "compiled inside":
            part.compile(fullgraph=True, backend="aot_eager")
        fully_shard(part, **options)
    fully_shard(model, **options)
    return compiled(model) if run == "compiled around" else model
