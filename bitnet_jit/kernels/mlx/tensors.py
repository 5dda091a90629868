"""The binding to MLX's arrays, which have any leading dimensions, and to torch tensors on the CPU, which are copied.

Arrays of MLX cannot be written into. A kernel of an op that writes into some of its arguments gives back its outputs,
and then the new values of those arguments that are there, in the order of the arguments. A call on MLX's arrays gives
all of them back likewise, shaped as the arguments; a call on torch tensors writes the new values into the tensors, and
gives back the outputs alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from bitnet_jit.devices.mlx import to_array, to_tensor
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.metal.launch import Bound
from bitnet_jit.kernels.mlx.launch import bind
from bitnet_jit.kernels.operands import Operand, Operands


def bind_call(bound: Any, operands: Operands) -> Call:
    """Return the call of a kernel: (*arguments) -> its output or outputs, in the arguments' own library."""
    on_arrays = call_on_arrays(bind(bound, operands) if isinstance(bound, Bound) else bound, operands)
    present = {operand.name: operand for operand in operands.inputs if operand.dtype}
    written = [place for place, name in enumerate(operands.arguments) if name in present and present[name].written]
    count = len(operands.outputs)

    def call(*arguments: Any) -> Any:
        if not any(hasattr(argument, "data_ptr") for argument in arguments):
            return unwrapped(on_arrays(*arguments))
        results = on_arrays(*map(to_array, arguments))
        for place, new in zip(written, results[count:], strict=True):
            write(arguments[place], to_tensor(new))
        return unwrapped(tuple(map(to_tensor, results[:count])))

    return call


def call_on_arrays(on_rows: Callable[..., Any], operands: Operands) -> Callable[..., tuple[Any, ...]]:
    """Return what runs a kernel on arrays: it makes leading dimensions one, and undoes that in all that comes back."""
    present = {operand.name: operand for operand in operands.inputs if operand.dtype}
    rows = {name: in_rows(operand, operands) for name, operand in present.items() if operand.has_rows}
    places = [rows.get(name) for name in operands.arguments]
    leads = next((place for place, shape in enumerate(places) if shape is not None), None)
    results = (*operands.outputs, *(operand for operand in present.values() if operand.written))

    def call(*arguments: Any) -> tuple[Any, ...]:
        values = [in_shape(a, shape) for a, shape in zip(arguments, places, strict=True)]
        arrays = on_rows(*values)
        arrays = arrays if isinstance(arrays, tuple) else (arrays,)
        leading = operands.leading if leads is None else leading_of(arguments[leads], places[leads])
        return tuple(
            in_shape(array, shape_of(result, leading, operands)) if result.has_rows else array
            for array, result in zip(arrays, results, strict=True)
        )

    return call


def in_shape(array: Any, shape: Any) -> Any:
    """Return an array in a shape; itself where it has that, as each view costs a node of MLX's graph."""
    return array if shape is None or array.shape == shape else array.reshape(shape)


def in_rows(operand: Operand, operands: Operands) -> tuple[int, ...]:
    """Return the shape of an operand whose leading dimensions are made one, for `reshape`."""
    return (-1 if operands.varying else operands.rows, *operand.shape[len(operands.leading) :])


def leading_of(array: Any, shape: Any) -> tuple[int, ...]:
    """Return the leading dimensions of an array, by its shape in rows."""
    leading: tuple[int, ...] = array.shape[: array.ndim - len(shape) + 1]
    return leading


def shape_of(operand: Operand, leading: Sequence[int], operands: Operands) -> tuple[int, ...]:
    """Return the shape of an operand in a call with such leading dimensions."""
    return (*leading, *operand.shape[len(operands.leading) :])


def unwrapped(results: tuple[Any, ...]) -> Any:
    """Return the results of a call: one by itself, several as a tuple."""
    return results if len(results) > 1 else results[0]


def write(tensor: Any, values: Any) -> None:
    """Write values into a torch tensor, also into one that was made in inference mode."""
    import torch

    with torch.inference_mode():
        tensor.copy_(values)
