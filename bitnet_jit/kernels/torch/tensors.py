"""Torch tensors to the kernels of this backend, which compute on rows: a call keeps the leading dimensions."""

from collections.abc import Callable
from typing import Any

import torch

from bitnet_jit.kernels.operands import Operand, Operands


def bind_call(run: Callable[..., Any], operands: Operands) -> Callable[..., Any]:
    """Return the call of a kernel: (*arguments) -> its output or outputs."""
    if not any(operand.has_rows for operand in operands.inputs):
        return run
    present = [operand for operand in operands.inputs if operand.has_rows and operand.dtype]
    shapes = {operand.name: in_rows(operand, operands) for operand in present}
    places = [shapes.get(name) for name in operands.arguments]
    outputs = operands.outputs

    def call(*arguments: Any) -> Any:
        rows = [a if shape is None else a.reshape(shape) for a, shape in zip(arguments, places, strict=True)]
        results = run(*rows)
        tensors: tuple[torch.Tensor, ...] = results if isinstance(results, tuple) else (results,)
        shapes = [output.shape for output in outputs]
        if operands.varying:
            shapes = [(*arguments[0].shape[:-1], *shape[len(operands.leading) :]) for shape in shapes]
        shaped = tuple(tensor.reshape(shape) for tensor, shape in zip(tensors, shapes, strict=True))
        return shaped if len(shaped) > 1 else shaped[0]

    return call


def in_rows(operand: Operand, operands: Operands) -> tuple[int, ...]:
    """Return the shape of an operand whose leading dimensions are made one, for `reshape`."""
    return (-1 if operands.varying else operands.rows, *operand.shape[len(operands.leading) :])
