"""Checks in which all processes train on the same rows, whatever is wrapped around the model.

Two processes then average two equal gradients, which is exact: that must be the training of one process to the bit.
"""

import torch
from common import WORLD, assert_same, batch, compiled, loss_of, mlp, shard, train
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from bitnet_jit import pack
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

DECODER = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "heads": 2, "kv_heads": 1, "context_length": 64}
IMPLEMENTATIONS = {"reentrant": CheckpointImpl.REENTRANT, "not reentrant": CheckpointImpl.NO_REENTRANT}


def checkpoint_blocks(model, checkpoint):
    """Keep no activations of the second block, whose input wants a gradient, as reentrant checkpointing needs."""
    if checkpoint is not None:
        model[1] = checkpoint_wrapper(model[1], IMPLEMENTATIONS[checkpoint])


def distribute(model, run, **options):
    """Wrap a model to average its gradients; torch compiles it whole inside the wrapper only, and not around it."""
    if run == "compiled inside":
        return DistributedDataParallel(compiled(model, fullgraph=True), **options)
    wrapped = DistributedDataParallel(model, **options)
    return compiled(wrapped) if run == "compiled around" else wrapped


def lowered(model):
    """Return a function that runs a model on bfloat16 copies of its weights, as FSDP2 does with that `param_dtype`."""
    return lambda x: functional_call(model, {n: p.bfloat16() for n, p in model.named_parameters()}, x.bfloat16())


def ddp_on_the_same_rows(device, run="eager", autocast=False, static_graph=False, checkpoint=None):
    """Check that DistributedDataParallel trains as one process does."""
    plain, model = mlp(device, use_rms_norm=True), mlp(device, use_rms_norm=True)
    x, target = batch(device)
    expected = train(plain, lambda: loss_of(plain, x, target, autocast))
    checkpoint_blocks(model, checkpoint)
    wrapped = distribute(model, run, static_graph=static_graph)
    assert_same(train(model, lambda: loss_of(wrapped, x, target, autocast)), expected)


def fsdp_on_the_same_rows(device, autocast=False, low=False, checkpoint=None, **options):
    """Check that FSDP2 trains as one process does, and that gathering and packing its weights changes no bit."""
    plain, model = mlp(device, use_rms_norm=True), mlp(device, use_rms_norm=True)
    x, target = batch(device)
    expected = train(plain, lambda: loss_of(lowered(plain) if low else plain, x, target, autocast))
    checkpoint_blocks(model, checkpoint)
    run = shard(model, device, low=low, **options)
    assert_same(train(model, lambda: loss_of(run, x, target, autocast)), expected)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    assert list(state) == list(plain.state_dict())
    gathered = mlp(device, use_rms_norm=True)
    gathered.load_state_dict(state)
    if low:  # it trained with rounded weights, which decide the scale
        gathered.bfloat16()
    # reentrant checkpointing warns where there are no gradients
    with (
        torch.set_grad_enabled(checkpoint == "reentrant"),
        torch.autocast(device.type, torch.bfloat16, enabled=autocast),
    ):
        y = run(x)
        assert_same([pack(gathered)(x.to(y.dtype) if low else x)], [y])


def decoder_on_the_same_rows(device, wrap, autocast=True):
    """Check a whole decoder, its embedding tied to its head; sharded block by block, each checkpointed."""
    config = TrainSettings(**DECODER, window=24).decoder()
    plain, model = TrainedDecoder(config).to(device), TrainedDecoder(config).to(device)
    windows = torch.randint(256, (4, 25), generator=torch.Generator().manual_seed(2)).to(device)

    def loss(run):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = run(windows[:, :-1])
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())

    if wrap == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        mesh, wrapped = init_device_mesh(device.type, (WORLD,)), model
        for i, block in enumerate(model.model.layers):
            model.model.layers[i] = fully_shard(checkpoint_wrapper(block), mesh=mesh)
        fully_shard(model, mesh=mesh)
    with sdpa_kernel(SDPBackend.MATH):  # others may add in any order in their backward pass
        assert_same(train(model, lambda: loss(wrapped)), train(plain, lambda: loss(plain)))
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        gathered = TrainedDecoder(config).to(device)
        gathered.load_state_dict(state)
        with torch.no_grad():
            assert_same([loss(pack(gathered))[0]], [loss(wrapped)[0]])
