"""Launches of Metal's or CUDA's kernels on MLX's arrays."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels.metal.launch import UNUSED_OUTPUT, Bound, Launch, Scratch
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.kernels.mlx.language import language
from bitnet_jit.kernels.operands import Operands

Values = dict[str | None, Any]  # arrays by name
Run = Callable[[Values], None]
MAX_KERNELS = 1024  # that are kept


@lru_cache(MAX_KERNELS)
def kernel_of(source: Source, constants: tuple[tuple[str, int | bool | str], ...], dialect: str) -> Any:
    """Return MLX's object for a kernel; it is compiled when it first runs."""
    make = mx.fast.metal_kernel if dialect == "metal" else mx.fast.cuda_kernel
    return make(
        name=source.entry(dict(constants), dialect),
        input_names=[*source.inputs, "sizes"],
        output_names=list(source.outputs),
        source=source.body(dict(constants), dialect),
        header=source.header(dialect),
    )


def prepare(launch: Launch, made: Scratch) -> Run:
    """Return what runs a launch: it takes the arrays of a call by name, and adds those that the launch makes.

    Args:
        launch: the launch.
        made: shape and dtype of what launches of this call make.
    """
    kernel = kernel_of(launch.source, tuple(launch.constants.items()), language() or "metal")
    absent = next(name for name in launch.inputs if name is not None)  # stands where there is nothing, and is not read
    inputs = [absent if name is None else name for name in launch.inputs]
    kinds = [UNUSED_OUTPUT if name is None else made[name] for name in launch.outputs]
    gx, gy, gz = launch.threadgroups
    options = {
        "grid": (gx * launch.threads, gy, gz),
        "threadgroup": (launch.threads, 1, 1),
        "output_shapes": [shape for shape, _ in kinds],
        "output_dtypes": [getattr(mx, dtype) for _, dtype in kinds],
    }

    def run(values: Values) -> None:
        sizes = mx.array(launch.sizes, dtype=mx.int32)  # made here, since a traced function holds no arrays of others
        results = kernel(inputs=[*(values[name] for name in inputs), sizes], **options)
        values.update(zip(launch.outputs, results, strict=True))

    return run


def bind(bound: Bound, operands: Operands) -> Callable[..., tuple[Any, ...]]:
    """Return what runs a kernel on arrays in rows: (*arguments) -> its outputs in rows."""
    rows = operands.rows
    outputs = {output.name: (in_rows(output.shape, operands), output.dtype) for output in operands.outputs}
    scratch: Scratch = bound.scratch(rows)
    runs = [prepare(launch, outputs | scratch) for launch in bound.launches(rows)] if rows else []
    absent = {operand.name for operand in operands.inputs if not operand.dtype}
    places, names = zip(*((i, name) for i, name in enumerate(operands.arguments) if name not in absent), strict=True)

    @mx.compile  # a traced call costs MLX 2 us, not 9: the texts of kernels are written once
    def on_arrays(*arrays: mx.array) -> tuple[mx.array, ...]:
        values: Values = dict(zip(names, arrays, strict=True))
        for run in runs:
            run(values)
        return tuple(values[name] for name in outputs)

    def call(*arguments: Any) -> tuple[Any, ...]:
        results: tuple[Any, ...] = on_arrays(*[as_buffer(arguments[place]) for place in places])
        return results

    def empty(*arguments: Any) -> tuple[Any, ...]:
        return tuple(mx.zeros(shape, dtype=getattr(mx, dtype)) for shape, dtype in outputs.values())

    return call if rows else empty


def as_buffer(value: Any) -> mx.array:
    """Return an array with a dimension at least; a number as an array of one element."""
    if isinstance(value, mx.array):
        return value if value.ndim else value.reshape(-1)
    return number(float(value))


@lru_cache(64)
def number(value: float) -> mx.array:
    """Return a number as an array of one element."""
    return mx.array([value], dtype=mx.float32)


def in_rows(shape: tuple[int, ...], operands: Operands) -> tuple[int, ...]:
    """Return the shape of an output whose leading dimensions are made one."""
    return (operands.rows, *shape[len(operands.leading) :])
