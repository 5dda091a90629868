"""How a model that is loaded gets a process for each of its workers."""

import logging
import warnings
from pathlib import Path

from torch import nn

from bitnet_jit.checkpoints.checksum import Stamp
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.devices.threads import get_num_threads
from bitnet_jit.engine.models.model import Model
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.processes.messages import Start
from bitnet_jit.engine.text.processes.remote_decoder import RemoteDecoder
from bitnet_jit.engine.text.processes.replica import ProcessReplica
from bitnet_jit.engine.text.replicas import ReplicaGroup
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.models.network import DTYPES

CPU = "cpu"


def in_processes(config: EngineConfig, source: Source) -> bool:
    """Return whether the workers of a source get processes: as the config says, or where there are several GPUs."""
    if config.processes is not None:
        return config.processes
    return len({device for device in source.devices if device.type != CPU}) > 1


def check_module(module: object, config: EngineConfig) -> None:
    """Raise InvalidInput for what is no module, or a decoder that would have to get into processes."""
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if config.processes and isinstance(module, Decoder):
        raise InvalidInput(
            "module: a worker in a process (EngineConfig.processes) loads its weights itself; use load_model"
        )


def make_processes(model_id: str, source: Source, path: Path, stamp: Stamp, config: EngineConfig) -> Model:
    """Return a model whose workers have loaded it, all at a time, each in a process of its own.

    Args:
        model_id: its name.
        source: its devices, and how it is loaded.
        path, stamp: its files, and of which writing they are.
        config: the engine's options.

    Raises:
        CheckpointError, InvalidInput, OutOfMemory: as `bitnet_jit.load`.
        DeviceFailed: a process has ended before it was ready.
    """
    reader = make_reader(path)
    dtype = source.dtype if source.dtype in DTYPES else DTYPES[0]  # the processes refuse others in words
    decoder = RemoteDecoder(reader.config, dtype, reader.tokenizer(), source.devices[0], reader.defaults())
    group = ReplicaGroup(model_id, config.max_waiting)
    try:
        members = start_all(
            group, [start_of(model_id, place, source, path, stamp, config) for place in range(len(source.devices))]
        )
        for member in members:
            ready = member.ready.result()
        for warning in ready.warnings:
            warnings.warn(warning, stacklevel=2)
        decoder.weight_count = ready.weight_count
    except BaseException:
        group.close("it could not be begun", abandon=True)
        raise
    return Model(model_id, decoder, group)


def start_all(group: ReplicaGroup, starts: list[Start]) -> list[ProcessReplica]:
    """Return workers that are loading, members of a group; where they tune, the first one does so before others."""
    members: list[ProcessReplica] = []
    for start in starts:
        members.append(ProcessReplica(start, group))
        group.add(members[-1])
        if start.config.optimization_level.prepares:
            members[-1].ready.result()
    return members


def start_of(model_id: str, place: int, source: Source, path: Path, stamp: Stamp, config: EngineConfig) -> Start:
    """Return what the process of one worker is to load; all of them together have the threads of this one."""
    device, number = source.devices[place], len(source.devices)
    return Start(
        name=f"bitnet-jit {model_id} {place}",
        path=path,
        stamp=stamp,
        device=device,
        dtype=source.dtype,
        head=source.head,
        cache=source.cache,
        i2_s=source.i2_s,
        config=config,
        sharing=source.devices.count(device),
        threads=max(1, get_num_threads() // number),
        has_others=number > 1,
        log_level=logging.getLogger("bitnet_jit").getEffectiveLevel(),
    )


def weight_bytes_of(model: Model) -> int:
    """Return the bytes of the weights in all processes of a model."""
    assert isinstance(model.replica, ReplicaGroup)
    return sum(member.weight_bytes for member in model.replica.members if isinstance(member, ProcessReplica))
