"""Launches of Metal's kernels on torch tensors: a program of its own for each, and what it is handed."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from bitnet_jit.kernels.metal.launch import UNUSED, Launch
from bitnet_jit.kernels.metal.source import Source

Run = Callable[[Mapping[str, torch.Tensor]], None]
MAX_PROGRAMS = 1024  # that are kept


@lru_cache(MAX_PROGRAMS)
def function_of(
    source: Source, constants: tuple[tuple[str, int | bool | str], ...], dtypes: tuple[tuple[str, str], ...]
) -> Any:
    """Return torch's object for a kernel, compiled."""
    library = torch.mps.compile_shader(source.program(dict(constants), dict(dtypes)))
    return getattr(library, source.entry(dict(constants), "metal"))


def prepare(launch: Launch, dtypes: Mapping[str, str]) -> Run:
    """Return what runs a launch on the tensors of a call by name.

    Args:
        launch: the launch.
        dtypes: of all tensors of the call; UNUSED among them.
    """
    absent = next(name for name in launch.inputs if name is not None)  # stands where there is nothing, and is not read
    inputs = [name or absent for name in launch.inputs]
    outputs = [name or UNUSED for name in launch.outputs]
    names = [*launch.source.inputs, *launch.source.outputs]
    types = tuple(zip(names, (dtypes[name] for name in (*inputs, *outputs)), strict=True))
    function = function_of(launch.source, tuple(launch.constants.items()), types)
    sizes, (gx, gy, gz) = list(launch.sizes), launch.threadgroups
    options = {
        "threads": (gx * launch.threads, gy, gz),
        "group_size": (launch.threads, 1, 1),
        "arg_casts": {len(inputs): "int32"},
    }

    def run(tensors: Mapping[str, torch.Tensor]) -> None:
        function(*[tensors[name] for name in inputs], sizes, *[tensors[name] for name in outputs], **options)

    return run
