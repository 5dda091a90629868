"""`mx.fast.metal_kernel` in the host harness: MLX's rules for names, types and grids; sources run on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from metal_host.host import library_of_text
from metal_host.run_bound import HOST, poisoned

DTYPES = {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16", mx.int8: "int8", mx.uint8: "uint8"}
DTYPES |= {mx.int32: "int32", mx.int64: "int64", mx.uint32: "uint32"}


def to_numpy(array: mx.array) -> np.ndarray:
    """Return an array's numbers; bfloat16 as bits."""
    return np.array(mx.view(array, mx.uint16) if array.dtype == mx.bfloat16 else array)


def from_numpy(numbers: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Undo `to_numpy`."""
    array = mx.array(numbers)
    return mx.view(array, mx.bfloat16) if dtype == mx.bfloat16 else array


def metal_kernel(name, input_names, output_names, source, header="", ensure_row_contiguous=True, **_):
    """Stand for `mx.fast.metal_kernel`; kernels run when they are called."""
    assert ensure_row_contiguous, "strides are not handed over"
    seeds = iter(range(1 << 30))

    def call(inputs, grid, threadgroup, output_shapes, output_dtypes, stream=None):
        assert len(inputs) == len(input_names)
        assert len(output_shapes) == len(output_dtypes) == len(output_names)
        assert threadgroup[1:] == (1, 1)
        assert grid[0] % threadgroup[0] == 0, "a threadgroup that is not full"
        dtypes = [DTYPES[array.dtype] for array in inputs] + [DTYPES[dtype] for dtype in output_dtypes]
        library = library_of_text(header, source, (*input_names, *output_names), dtypes, set(output_names))
        outputs = [poisoned(shape, DTYPES[dtype]) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
        groups = (grid[0] // threadgroup[0], grid[1], grid[2])
        buffers = [*map(to_numpy, inputs), *outputs]
        left = HOST.run(library, buffers, groups, threadgroup[0], seed=next(seeds))
        return [from_numpy(numbers, dtype) for numbers, dtype in zip(left[len(inputs) :], output_dtypes, strict=True)]

    return call


@contextmanager
def metal() -> Iterator[None]:
    """Make MLX look as on a Mac: a GPU as its default device, and kernels that run in the harness."""
    gpu = SimpleNamespace(type=mx.DeviceType.gpu)
    with (
        patch.object(mx, "default_device", lambda: gpu),
        patch.object(mx.metal, "is_available", lambda: True),
        patch.object(mx, "device_info", lambda: {"device_name": "Apple M0", "architecture": "applegpu_g0"}),
        patch.object(mx.fast, "metal_kernel", metal_kernel),
    ):
        yield
