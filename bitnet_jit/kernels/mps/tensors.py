"""Torch tensors to launches of Metal's kernels: allocate outputs and what lies between launches, hand tensors over.

Kernels read runs of numbers at once, from memory without gaps. A tensor that has gaps, or begins at an offset that is
no multiple of 16 bytes, is copied first; one that is written into is copied back.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.metal.launch import UNUSED, UNUSED_OUTPUT, Bound, Varying
from bitnet_jit.kernels.mps.launch import prepare
from bitnet_jit.kernels.operands import Operands

ALIGN = 16  # bytes
MAX_CALLS = 4096  # of different shapes, that are kept for one problem


def bind_call(bound: Bound | Varying, operands: Operands, device: torch.device) -> Call:
    """Return the call of a kernel: (*arguments) -> its output or outputs."""
    if isinstance(bound, Varying):
        return varying_call(bound, operands, device)
    outputs = {output.name: (output.shape, output.dtype) for output in operands.outputs}
    made = outputs | bound.scratch(operands.rows) | {UNUSED: UNUSED_OUTPUT}
    dtypes = {operand.name: operand.dtype for operand in operands.inputs}
    dtypes |= dict.fromkeys(operands.numbers, "float32") | {name: dtype for name, (_, dtype) in made.items()}
    launches = bound.launches(operands.rows) if operands.rows else ()
    runs = [prepare(launch, dtypes) for launch in launches]
    if not any(None in launch.outputs for launch in launches):
        del made[UNUSED]
    written = {name for launch in launches for name in launch.written}
    names = operands.arguments

    def call(*arguments: Any) -> Any:
        place = arguments[0].device
        tensors = {name: as_read(value, place) for name, value in zip(names, arguments, strict=True)}
        tensors |= allocate(made, place)
        for run in runs:
            run(tensors)
        for name, value in zip(names, arguments, strict=True):
            if name in written and tensors[name] is not value:
                value.copy_(tensors[name])
        results = tuple(tensors[name] for name in outputs)
        return results if len(results) > 1 else results[0]

    return call


def varying_call(bound: Varying, operands: Operands, device: torch.device) -> Call:
    """Return the call of a kernel that is bound anew to every set of shapes, when it is first seen."""
    calls: dict[tuple[torch.Size | None, ...], Call] = {}

    def call(*arguments: Any) -> Any:
        shapes = tuple([None if a is None else a.shape for a in arguments])
        run = calls.get(shapes)
        if run is None:
            if len(calls) >= MAX_CALLS:
                calls.clear()
            here = operands.with_shapes(shapes)
            run = calls[shapes] = bind_call(bound.of({a.name: a.shape for a in here.inputs}), here, device)
        return run(*arguments)

    return call


def as_read(value: Any, device: torch.device) -> Any:
    """Return a value as kernels read it: a tensor without gaps that begins where runs do, a number as a tensor."""
    if not isinstance(value, torch.Tensor):
        return value if value is None else number(float(value), device)
    offset = value.storage_offset() * value.element_size()
    if value.is_contiguous() and offset % ALIGN == 0:
        return value
    return value.clone(memory_format=torch.contiguous_format)


@lru_cache(64)
def number(value: float, device: torch.device) -> torch.Tensor:
    """Return a number as a float32 tensor of one element."""
    return torch.tensor([value], dtype=torch.float32, device=device)


def allocate(made: Mapping[str, tuple[tuple[int, ...], str]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the tensors that a call makes."""
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device=device) for name, (shape, dtype) in made.items()
    }
