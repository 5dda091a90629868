"""Checks of LoRA on packed layers under DistributedDataParallel and both FSDPs."""

import re

import torch
from common import RATES, STEPS, WORLD, assert_same, batch, loss_of, mlp, whole
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from bitnet_jit import add_lora, lora_state_dict, pack
from bitnet_jit.nn import packed_parameters


def adapted(device):
    """Return the three layers, packed, with adapters that change something."""
    model = add_lora(pack(mlp("cpu", use_rms_norm=True)), r=4, alpha=8.0)
    generator = torch.Generator().manual_seed(3)
    for layer in (model[0][0], model[1][0], model[2]):
        nn.init.normal_(layer.lora_B.weight, std=0.25, generator=generator)
    return model.to(device)


def wrapped_lora(model, device, wrap):
    """Wrap a model with adapters, sharded or copied."""
    if wrap == "ddp":
        return DistributedDataParallel(model)
    ignored = packed_parameters(model)
    if wrap == "fsdp1":
        # named, a CPU is taken: otherwise torch looks for an accelerator
        return FullyShardedDataParallel(model, use_orig_params=True, ignored_states=ignored, device_id=device)
    parts = [module for module in model.modules() if isinstance(module, nn.Linear)] if wrap == "factors" else [*model]
    for part in (*parts, model):
        fully_shard(part, mesh=init_device_mesh(device.type, (WORLD,)), ignored_params=ignored)
    return model


def lora_on_the_same_rows(device, wrap, autocast=False):
    """Check that adapters on packed layers train as in one process, whatever is wrapped around the model."""
    plain, model = adapted(device), adapted(device)
    x, target = batch(device)
    trained = [p for p in plain.parameters() if p.requires_grad]
    expected = train_lora(plain, trained, lambda: loss_of(plain, x, target, autocast))
    run = wrapped_lora(model, device, wrap)
    outputs = train_lora(model, run.parameters(), lambda: loss_of(run, x, target, autocast))
    assert_same(outputs, expected)
    if wrap == "fsdp1":
        with FullyShardedDataParallel.summon_full_params(run):
            state = {name: whole(tensor) for name, tensor in run.module.state_dict().items()}
    else:
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    gathered = adapted(device)
    gathered.load_state_dict(state)
    assert_same(lora_state_dict(gathered).values(), lora_state_dict(plain).values())
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast), torch.no_grad():
        assert_same([gathered(x), run(x)], [plain(x)] * 2)


def train_lora(model, parameters, loss):
    """Train for some steps on `loss()`, which sinks; return every output on the way."""
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], **RATES)
    outputs, losses = [], []
    for _ in range(STEPS):
        y, value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        outputs.append(whole(y))
        losses.append(value.item())
    assert losses[-1] < losses[0]
    return outputs


def packed_layers_that_are_not_ignored(device):
    """Check that FSDP2 says that it takes no scalar; nothing is trained on a wrong scale."""
    said = "nothing"
    try:
        fully_shard(adapted(device), mesh=init_device_mesh(device.type, (WORLD,)))
    except ValueError as error:
        said = str(error)
    assert re.search("scalar.*w_scale", said), said
