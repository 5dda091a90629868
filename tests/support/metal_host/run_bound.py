"""Runs a bound kernel on NumPy arrays in the host harness; bfloat16 is the bits of it as uint16. No MLX, no torch."""

from collections.abc import Mapping

import numpy as np

from bitnet_jit.kernels.metal.launch import UNUSED, Bound, Launch
from metal_host.host import HOST, library_of

POISON = 0xFF  # in every byte of what a kernel makes: NaN


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an array whose numbers nobody expects."""
    kind = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    return np.full(int(np.prod(shape)) * kind.itemsize, POISON, np.uint8).view(kind).reshape(shape)


def dtype_of(array: np.ndarray) -> str:
    """Return the name of what an array holds."""
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


def run_launch(launch: Launch, values: dict[str, np.ndarray], seed: int) -> None:
    """Run a launch on the arrays of a call, and put in what it has written."""
    absent = next(name for name in launch.inputs if name is not None)
    inputs = [values[absent if name is None else name] for name in launch.inputs]
    outputs = [poisoned((1,), "float32") if name is None else values[name] for name in launch.outputs]
    buffers = [*inputs, np.array(launch.sizes, np.int32), *outputs]
    library = library_of(launch.source, launch.constants, [dtype_of(buffer) for buffer in buffers])
    left = HOST.run(library, buffers, launch.threadgroups, launch.threads, seed)
    for before, after in zip(inputs, left, strict=False):
        np.testing.assert_array_equal(before.view(np.uint8), after.view(np.uint8))
    for name, after in zip(launch.outputs, left[-len(outputs) :], strict=True):
        values[name or UNUSED] = after


def run_bound(
    bound: Bound,
    rows: int,
    arguments: Mapping[str, np.ndarray | float | None],
    outputs: Mapping[str, tuple[tuple[int, ...], str]],
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Run all launches of a call.

    Args:
        bound: the kernel.
        rows: of the call.
        arguments: by their names; numbers are floats, and None what is absent.
        outputs: shape and dtype of what the call gives back; poisoned before.
        seed: of the order in which threads run.

    Returns:
        All arrays by name, as the call left them: arguments that are written, scratch and outputs.
    """
    values = {
        name: np.array([value], np.float32) if isinstance(value, float) else np.ascontiguousarray(value)
        for name, value in arguments.items()
        if value is not None
    }
    values |= {name: poisoned(*kind) for name, kind in {**bound.scratch(rows), **outputs}.items()}
    for launch in bound.launches(rows):
        run_launch(launch, values, seed)
    return values
