"""Checks of the shards that layers must not take for whole tensors."""

import re
from functools import partial
from itertools import product

import torch
import torch.distributed as dist
from common import IN, ROWS, WORLD, batch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.func import functional_call

from bitnet_jit import BitLinear, RMSNorm


def a_sharded_layer_without_its_hooks(device):
    """Check that a shard is not taken for the weight where another module than the one that gathers it is called."""
    model, x = nn.Sequential(BitLinear(IN, 37), RMSNorm(37)).to(device), batch(device)[0]
    fully_shard(model, mesh=init_device_mesh(device.type, (WORLD,)))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            refuse(lambda: model[0](x))
            refuse(lambda: model[1](x[:, :37]))
    assert model(x).shape == (ROWS, 37)


def tensors_in_parts(device):
    """Check that a layer takes no DTensor for a tensor, whichever of its tensors are DTensors."""
    layer, mesh = BitLinear(IN, 6).to(device), init_device_mesh(device.type, (WORLD,))
    plain = {"x": batch(device)[0], "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    for placement, chosen in product((Shard(0), Replicate()), product((False, True), repeat=len(plain))):
        parts = {n: distribute_tensor(plain[n], mesh, [placement]) for n, c in zip(plain, chosen, strict=True) if c}
        for grad in (True, False) if parts else ():
            tensors = {name: tensor.detach().requires_grad_(grad) for name, tensor in (plain | parts).items()}
            x = tensors.pop("x")
            refuse(partial(functional_call, layer, tensors, x))


def tensor_parallel(device, style):
    """Check that spreading rows or columns over processes is refused: a part's scale is not the weight's."""
    styles = {"columns": ColwiseParallel, "rows": RowwiseParallel}
    x, mesh = batch(device)[0], init_device_mesh(device.type, (WORLD,))
    model = parallelize_module(nn.Sequential(BitLinear(IN, 6)).to(device), mesh, {"0": styles[style]()})
    mine = x if style == "columns" else x.chunk(WORLD, -1)[dist.get_rank()]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            refuse(lambda: model(mine))


def refuse(call):
    """Check that a call raises an error of torch that names the op that was given a DTensor."""
    said = "nothing: a DTensor was taken for a tensor"
    try:
        call()
    except (NotImplementedError, RuntimeError) as error:
        said = str(error)
    assert re.search(r"bitnet_jit\.\w+.*(sharding strategy|DTensor)", said), said
