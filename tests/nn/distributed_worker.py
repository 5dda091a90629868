"""What the processes of `test_distributed.py` do, each a check that all of them go through together.

    python distributed_worker.py cpu|cuda RANK FOLDER

reads checks from its standard input, one a line, [name, options] as JSON, and writes what became of the nth into
FOLDER/n.RANK: nothing where all is well, else the traceback, and then it ends, so that the others do not wait for it.

Two processes that train on the same rows average two equal gradients, which is exact: that must be the training of one
process to the bit, whatever is wrapped around the layers. Where each has its own half of the rows, only the sums over
rows have another order.
"""

import faulthandler
import json
import os
import re
import sys
import traceback
import warnings
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from bitnet_jit import BitLinear, RMSNorm, add_lora, lora_state_dict, pack
from bitnet_jit.nn import packed_parameters
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

WORLD = 2
SECONDS = 60  # that a process waits for the other one
IN, OUT, ROWS, STEPS = 70, 5, 16, 4  # ROWS divides by the processes and their parts: means then differ by powers of two
RATES = {"lr": 2.0**-3, "momentum": 2.0**-1}  # whose products are exact, so that a step rounds the same fused or not
DECODER = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "heads": 2, "kv_heads": 1, "context_length": 64}
IMPLEMENTATIONS = {"reentrant": CheckpointImpl.REENTRANT, "not reentrant": CheckpointImpl.NO_REENTRANT}

compiled = partial(torch.compile, backend="aot_eager")


def mlp(device, use_rms_norm=False):
    """Three layers; the rows of two of them do not divide by the number of processes, and one has no bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(BitLinear(IN, 64), nn.ReLU()),
        nn.Sequential(BitLinear(64, 37, bias=False, use_rms_norm=use_rms_norm), nn.ReLU()),
        BitLinear(37, OUT, use_rms_norm=use_rms_norm),
    ).to(device)


def batch(device):
    """x (ROWS, IN) and what the layers shall make of it, (ROWS, OUT)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, IN, generator=generator)
    return x.to(device), x[:, :OUT].to(device)


def loss_of(run, x, target, autocast):
    """The outputs of a model and their mean squared error."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        y = run(x)
    return y, (y.float() - target).square().mean()


def train(model, loss):
    """Some steps on `loss()`, an output and its loss: every output and every gradient on the way, and the weights."""
    optimizer, found, losses = torch.optim.SGD(model.parameters(), **RATES), [], []
    for _ in range(STEPS):
        y, value = loss()
        optimizer.zero_grad()
        value.backward()
        found += [whole(tensor) for tensor in (y, *(parameter.grad for parameter in model.parameters()))]
        losses.append(value.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    return found + [whole(parameter) for parameter in model.parameters()]


def whole(tensor):
    """A copy as one process has it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def assert_same(found, expected):
    """Two lists of tensors are the same to the bit."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_all_have(tensors, device):
    """Every process has the same tensors to the bit."""
    mine = torch.cat([tensor.flatten() for tensor in tensors]).to(device)
    everybodys = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everybodys, mine)
    assert_same(everybodys, [mine] * WORLD)


def checkpoint_blocks(model, checkpoint):
    """Keep no activations of the second block, whose input wants a gradient, as reentrant checkpointing needs."""
    if checkpoint is not None:
        model[1] = checkpoint_wrapper(model[1], IMPLEMENTATIONS[checkpoint])


def distribute(model, run, **options):
    """A model that averages its gradients; one that is compiled around that cannot be compiled whole: torch refuses."""
    if run == "compiled inside":
        return DistributedDataParallel(compiled(model, fullgraph=True), **options)
    wrapped = DistributedDataParallel(model, **options)
    return compiled(wrapped) if run == "compiled around" else wrapped


def shard(model, device, keep=False, low=False, offload=False, run="eager"):
    """FSDP2 of each part of a model and of the rest; it may keep whole weights until the backward pass."""
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


def lowered(model):
    """A model that runs on bfloat16 copies of its weights, as FSDP2 with that `param_dtype` says it does."""
    return lambda x: functional_call(model, {n: p.bfloat16() for n, p in model.named_parameters()}, x.bfloat16())


def ddp_on_the_same_rows(device, run="eager", autocast=False, static_graph=False, checkpoint=None):
    """DistributedDataParallel trains as one process does."""
    plain, model = mlp(device, use_rms_norm=True), mlp(device, use_rms_norm=True)
    x, target = batch(device)
    expected = train(plain, lambda: loss_of(plain, x, target, autocast))
    checkpoint_blocks(model, checkpoint)
    wrapped = distribute(model, run, static_graph=static_graph)
    assert_same(train(model, lambda: loss_of(wrapped, x, target, autocast)), expected)


def fsdp_on_the_same_rows(device, autocast=False, low=False, checkpoint=None, **options):
    """FSDP2 trains as one process does, and what it has trained is gathered and packed without changing a bit."""
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
    if low:  # the weights that it trained with are the rounded ones: theirs is the scale
        gathered.bfloat16()
    # reentrant checkpointing warns where there are no gradients
    with (
        torch.set_grad_enabled(checkpoint == "reentrant"),
        torch.autocast(device.type, torch.bfloat16, enabled=autocast),
    ):
        y = run(x)
        assert_same([pack(gathered)(x.to(y.dtype) if low else x)], [y])


def gradients_of_halves(device, wrap, autocast=False, parts=1):
    """Each process has its half of the rows, in so many parts whose gradients it sums before the processes meet."""
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
            found, loss = loss_of(wrapped, part, wanted, autocast)
            assert_same([found], [rows[i]])
            (loss / parts).backward()
    bounds = rounding(plain, x, y.grad, autocast)
    for parameter, expected, bound in zip(model.parameters(), plain.parameters(), bounds, strict=True):
        error = whole(parameter.grad).double() - whole(expected.grad)
        assert (error.abs() <= bound).all(), f"{(error.abs() / bound).max()} of what rounding explains"
    train(model, lambda: loss_of(wrapped, *half, autocast))
    assert_all_have([whole(parameter) for parameter in model.parameters()], device)


def rounding(model, x, dy, autocast):
    """How far two gradients of each parameter may lie apart that sum the same terms, each product's, in any order.

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


def adapted(device):
    """The three layers, packed, with adapters that change something."""
    model = add_lora(pack(mlp("cpu", use_rms_norm=True)), r=4, alpha=8.0)
    generator = torch.Generator().manual_seed(3)
    for layer in (model[0][0], model[1][0], model[2]):
        nn.init.normal_(layer.lora_B.weight, std=0.25, generator=generator)
    return model.to(device)


def wrapped_lora(model, device, wrap):
    """A model with adapters, sharded or copied."""
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
    """Adapters on packed layers train as in one process, whatever is wrapped around the model."""
    plain, model = adapted(device), adapted(device)
    x, target = batch(device)
    trained = [p for p in plain.parameters() if p.requires_grad]
    expected = train_lora(plain, trained, lambda: loss_of(plain, x, target, autocast))
    run = wrapped_lora(model, device, wrap)
    found = train_lora(model, run.parameters(), lambda: loss_of(run, x, target, autocast))
    assert_same(found, expected)
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
    """Some steps on `loss()`: every output on the way, the last one smaller than the first."""
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], **RATES)
    found, losses = [], []
    for _ in range(STEPS):
        y, value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(whole(y))
        losses.append(value.item())
    assert losses[-1] < losses[0]
    return found


def packed_layers_that_are_not_ignored(device):
    """FSDP2 says that it takes no scalar; nothing is trained on a wrong scale."""
    said = "nothing"
    try:
        fully_shard(adapted(device), mesh=init_device_mesh(device.type, (WORLD,)))
    except ValueError as error:
        said = str(error)
    assert re.search("scalar.*w_scale", said), said


class Forked(nn.Module):
    """A layer for each process, which the others do not use, and one for all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.own = nn.ModuleList(BitLinear(IN, 37) for _ in range(WORLD))
        self.head = BitLinear(37, OUT)

    def forward(self, x, which):
        return self.head(F.relu(self.own[which](x)))


def layers_that_a_process_does_not_use(device):
    """The average of a layer's gradient on one process and of none on the other is half of it."""
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


def decoder_on_the_same_rows(device, wrap, autocast=True):
    """A whole decoder, its embedding tied to its head; sharded block by block, each checkpointed."""
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


def a_sharded_layer_without_its_hooks(device):
    """Where the module that gathers a weight is not the one that is called, its shard is not taken for the weight."""
    model, x = nn.Sequential(BitLinear(IN, 37), RMSNorm(37)).to(device), batch(device)[0]
    fully_shard(model, mesh=init_device_mesh(device.type, (WORLD,)))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            refuse(lambda: model[0](x))
            refuse(lambda: model[1](x[:, :37]))
    assert model(x).shape == (ROWS, 37)


def tensors_in_parts(device):
    """A layer takes no DTensor for a tensor, whichever of its tensors are some."""
    layer, mesh = BitLinear(IN, 6).to(device), init_device_mesh(device.type, (WORLD,))
    plain = {"x": batch(device)[0], "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    for placement, chosen in product((Shard(0), Replicate()), product((False, True), repeat=len(plain))):
        parts = {n: distribute_tensor(plain[n], mesh, [placement]) for n, c in zip(plain, chosen, strict=True) if c}
        for grad in (True, False) if parts else ():
            tensors = {name: tensor.detach().requires_grad_(grad) for name, tensor in (plain | parts).items()}
            x = tensors.pop("x")
            refuse(partial(functional_call, layer, tensors, x))


def tensor_parallel(device, style):
    """A layer told to spread its rows or columns over the processes is refused: a part's scale is not the weight's."""
    styles = {"columns": ColwiseParallel, "rows": RowwiseParallel}
    x, mesh = batch(device)[0], init_device_mesh(device.type, (WORLD,))
    model = parallelize_module(nn.Sequential(BitLinear(IN, 6)).to(device), mesh, {"0": styles[style]()})
    mine = x if style == "columns" else x.chunk(WORLD, -1)[dist.get_rank()]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            refuse(lambda: model(mine))


def refuse(call):
    """The call raises an error, torch's, that names the op that was given a DTensor."""
    said = "nothing: a DTensor was taken for a tensor"
    try:
        call()
    except (NotImplementedError, RuntimeError) as error:
        said = str(error)
    assert re.search(r"bitnet_jit\.\w+.*(sharding strategy|DTensor)", said), said


def main(device_type, rank, folder):
    """Go through the checks that are asked for, until there are no more."""
    torch.set_num_threads(1)
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # sums of bfloat16 numbers are float32 until they are complete
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group(backend, store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=SECONDS))
    for number, line in enumerate(sys.stdin):
        name, options = json.loads(line)
        faulthandler.dump_traceback_later(SECONDS)  # of a check that hangs
        error = failure(partial(globals()[name], device, **options))
        faulthandler.cancel_dump_traceback_later()
        unfinished = folder / f"{number}.{rank}.unfinished"
        unfinished.write_text(error, encoding="utf-8")
        unfinished.rename(folder / f"{number}.{rank}")
        if error:
            os._exit(1)
    dist.destroy_process_group()


def failure(check):
    """The traceback of a check that fails, or of a warning; else nothing."""
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # torch.compile looks whether inputs have a gradient, and where it breaks a graph they are results
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf Tensor")
            check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
