"""Torch tensors to launches of Metal's kernels: allocate outputs and what lies between launches, hand tensors over.

Kernels read runs of numbers at once, from memory without gaps. A tensor that has gaps, or begins at an offset that is
no multiple of 16 bytes, is copied first; one that is written into is copied back.
"""

from collections.abc import Mapping
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.metal.launch import Bound
from bitnet_jit.kernels.mps.launch import prepare
from bitnet_jit.kernels.operands import Operands

ALIGN = 16  # bytes


def bind_call(bound: Bound, operands: Operands, device: torch.device) -> Call:
    """Return the call of a kernel: (*arguments) -> its output or outputs."""
    outputs = {output.name: (output.shape, output.dtype) for output in operands.outputs}
    made = outputs | bound.scratch(operands.rows)
    dtypes = {operand.name: operand.dtype for operand in operands.inputs} | {
        name: dtype for name, (_, dtype) in made.items()
    }
    runs = [prepare(launch, dtypes) for launch in bound.launches(operands.rows)] if operands.rows else []
    names = operands.arguments

    def call(*arguments: Any) -> Any:
        tensors = {name: as_read(value) for name, value in zip(names, arguments, strict=True)}
        tensors |= allocate(made, arguments[0].device)
        for run in runs:
            run(tensors)
        results = tuple(tensors[name] for name in outputs)
        return results if len(results) > 1 else results[0]

    return call


def as_read(value: Any) -> Any:
    """Return a tensor as kernels read it, copied where it has gaps or begins at an odd offset; others as they are."""
    if not isinstance(value, torch.Tensor):
        return value
    offset = value.storage_offset() * value.element_size()
    if value.is_contiguous() and offset % ALIGN == 0:
        return value
    return value.clone(memory_format=torch.contiguous_format)


def allocate(made: Mapping[str, tuple[tuple[int, ...], str]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the tensors that a call makes."""
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device=device) for name, (shape, dtype) in made.items()
    }
