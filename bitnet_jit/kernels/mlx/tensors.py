"""The binding to MLX's arrays, which have any leading dimensions, and to torch tensors on the CPU, which are copied."""

from typing import Any

import mlx.core as mx

from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.metal.launch import Bound
from bitnet_jit.kernels.mlx.launch import bind
from bitnet_jit.kernels.operands import Operands


def bind_call(bound: Any, operands: Operands) -> Call:
    """Return the call of a kernel: (*arguments) -> its output or outputs, in the arguments' own library."""
    on_rows = bind(bound, operands) if isinstance(bound, Bound) else bound
    places: list[tuple[int, ...] | None] = [None] * len(operands.arguments)
    for operand in operands.inputs:
        if operand.has_rows and operand.dtype:
            shape = (operands.rows, *operand.shape[len(operands.leading) :])
            places[operands.arguments.index(operand.name)] = shape
    shapes = [output.shape for output in operands.outputs]

    def on_arrays(*arguments: Any) -> Any:
        rows = [a if shape is None else a.reshape(shape) for a, shape in zip(arguments, places, strict=True)]
        results = on_rows(*rows)
        results = results if isinstance(results, tuple) else (results,)
        shaped = tuple(result.reshape(shape) for result, shape in zip(results, shapes, strict=True))
        return shaped if len(shaped) > 1 else shaped[0]

    def call(*arguments: Any) -> Any:
        if not any(hasattr(argument, "data_ptr") for argument in arguments):
            return on_arrays(*arguments)
        results = on_arrays(*map(to_array, arguments))
        return tuple(map(to_tensor, results)) if isinstance(results, tuple) else to_tensor(results)

    return call


def to_array(value: Any) -> Any:
    """Return a torch tensor as an array; what is no tensor as it is."""
    if not hasattr(value, "data_ptr"):
        return value
    import torch

    tensor = value.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return mx.view(mx.array(tensor.view(torch.int16).numpy()), mx.bfloat16)
    return mx.array(tensor.numpy())


def to_tensor(array: Any) -> Any:
    """Return an array as a torch tensor on the CPU."""
    import numpy as np
    import torch

    if array.dtype == mx.bfloat16:
        return torch.from_numpy(np.array(mx.view(array, mx.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
