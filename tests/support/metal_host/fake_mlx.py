"""`mx.fast.metal_kernel` on a machine without Metal: MLX writes the program, the host harness runs it.

MLX writes a kernel's text when it exports a graph, which needs no GPU, and prints it if it is asked to. So signature,
names, types and address spaces are its own: an input of fewer than eight numbers is a constant, one without dimensions
a reference.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from metal_host.program import Program

metal_kernel = mx.fast.metal_kernel
POISON = 0xFF  # in every byte of an output: NaN


def to_numpy(array: mx.array) -> np.ndarray:
    """Return an array's numbers; bfloat16 as bits."""
    return np.array(mx.view(array, mx.uint16) if array.dtype == mx.bfloat16 else array)


def from_numpy(numbers: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Undo `to_numpy`."""
    array = mx.array(numbers)
    return mx.view(array, mx.bfloat16) if dtype == mx.bfloat16 else array


def printed(run) -> str:
    """Return what C++ prints on standard output while a function runs."""
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            run()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read()


def fake_kernel(name, input_names, output_names, source, header="", ensure_row_contiguous=True, **options):
    """Stand for `mx.fast.metal_kernel`; kernels run when they are called."""
    assert ensure_row_contiguous, "strides are not handed over"
    real = metal_kernel(name, input_names, output_names, source, header, ensure_row_contiguous, **options)

    @cache
    def program(kinds, output_dtypes):
        made = {"output_dtypes": list(output_dtypes), "output_shapes": [(1,)] * len(output_dtypes)}

        def exported(*inputs):
            return real(inputs=list(inputs), **made, grid=(32, 1, 1), threadgroup=(32, 1, 1), verbose=True)

        with tempfile.TemporaryDirectory() as folder:
            examples = [mx.zeros(shape, dtype=dtype) for shape, dtype in kinds]
            text = printed(lambda: mx.export_function(f"{folder}/kernel.mlxfn", exported, *examples))
        return Program(text.partition("```\n")[2].rpartition("\n```")[0])

    def call(inputs, grid, threadgroup, output_shapes, output_dtypes, stream=None):
        # the text depends on dtypes, and on whether an input is small or has no dimensions
        kinds = tuple(((min(a.size, 8),) if a.ndim else (), a.dtype) for a in inputs)
        made = program(kinds, tuple(output_dtypes))
        storage = [to_numpy(mx.zeros((), dtype=dtype)).dtype for dtype in output_dtypes]
        outputs = [
            np.full(int(np.prod(shape)) * kind.itemsize, POISON, np.uint8).view(kind).reshape(shape)
            for shape, kind in zip(output_shapes, storage, strict=True)
        ]
        left = made.run([*map(to_numpy, inputs), *outputs], grid, threadgroup)[len(inputs) :]
        return [from_numpy(numbers, dtype) for numbers, dtype in zip(left, output_dtypes, strict=True)]

    return call


@contextmanager
def metal() -> Iterator[None]:
    """Make MLX look as on a Mac: a GPU as its default device, and kernels that run in the harness."""
    gpu = SimpleNamespace(type=mx.DeviceType.gpu)
    with (
        patch.object(mx, "default_device", lambda: gpu),
        patch.object(mx.metal, "is_available", lambda: True),
        patch.object(mx, "device_info", lambda: {"device_name": "Apple M0", "architecture": "applegpu_g0"}),
        patch.object(mx.fast, "metal_kernel", fake_kernel),
        patch.object(mx, "compile", lambda function: function),  # what is traced has no numbers for the harness
    ):
        yield
