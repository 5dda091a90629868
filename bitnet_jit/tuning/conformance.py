"""The conformance suite: what every kernel of every backend has to compute, made from the records of ops alone.

A problem is drawn for each op at ragged shapes, in every dtype, layout and kind of scales. The expected result is that
of the fallback, which has tests of its own against `bitnet_jit.reference`; exact ops are compared to the bit. The tests
run it on every backend, and `bitnet-jit report` on the machine of whoever asks.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from bitnet_jit.dtypes import dtype_name
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.arguments import LayoutName, PowerOfTwo, Word
from bitnet_jit.ops.calls import bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.ops.spec import OpSpec, output_dtype
from bitnet_jit.packing.layout import Layout
from bitnet_jit.problem import ACTIVATIONS, Problem, rows_bucket
from bitnet_jit.tuning.contenders import agree, in_order
from bitnet_jit.tuning.synthetic import synthetic_values

SHAPES = ((4, 37, 70), (1, 1, 1), (32, 128, 33), (2, 3, 256))  # rows, out_features, in_features
HEADS = ((4, 4, 2, 16), (1, 5, 1, 10), (32, 2, 2, 80), (2, 8, 1, 64))  # rows, heads, kv_heads, head_dim
ALL_CONFIGS = os.environ.get("BITNET_JIT_TEST_CONFIGS") == "all"
GROUP = 32
BLOCK = 16  # the smallest that every backend takes


def problems_of(spec: OpSpec, device_type: str) -> Iterator[Problem]:
    """Yield problems of an op: every combination of what its record lets vary, each at one shape in turn."""
    if any(tensor.field == "cache_dtype" for tensor in spec.tensors):
        yield from attention_problems(spec, device_type)
        return
    if "states" in spec.operands:
        yield from recurrent_problems(spec, device_type)
        return
    shapes = itertools.cycle(SHAPES)
    layouts = [layout.name for layout in layouts_of(device_type)] if has(spec, LayoutName) else [""]
    activations = ACTIVATIONS if has(spec, Word) else (spec.activation,)
    scales = ("tensor", "row", "group") if "w_scale" in spec.operands else (spec.scale,)
    x_dtypes = [dtype_name(dtype) for dtype in spec.tensors[0].dtypes]
    for layout, activation, scale, x_dtype, bias, w_dtype in itertools.product(
        layouts, activations, scales, x_dtypes, biases(spec), dense_dtypes(spec)
    ):
        if activation == "a8g" and scale != "group":
            continue
        rows, out_features, in_features = next(shapes)
        in_features *= BLOCK if has(spec, PowerOfTwo) else 1
        problem = Problem(
            op=spec.name,
            device_type=device_type,
            rows=rows_bucket(rows),
            out_features=out_features if spec_has_outputs(spec) else in_features,
            in_features=in_features,
            layout=layout,
            activation=activation,
            x_dtype=x_dtype,
            scale=scale,
            group_size=GROUP if scale == "group" else 0,
            bias=bias,
            w_dtype=w_dtype,
            block=in_features & -in_features if has(spec, PowerOfTwo) else 0,  # the largest that divides it
        )
        inputs = {operand.name: operand.dtype for operand in spec.operands_of(problem, (rows,)).inputs}
        yield replace(problem, y_dtype=output_dtype(spec.outputs[0], inputs, problem))


def attention_problems(spec: OpSpec, device_type: str) -> Iterator[Problem]:
    """Yield problems of an op on a cache: every two dtypes, each with some heads in turn."""
    names, caches = ([dtype_name(dtype) for dtype in tensor.dtypes] for tensor in spec.tensors[:2])
    for (x_dtype, cache_dtype), (rows, heads, kv_heads, head_dim) in zip(
        itertools.product(names, caches), itertools.cycle(HEADS), strict=False
    ):
        yield Problem(
            op=spec.name,
            device_type=device_type,
            rows=rows_bucket(rows),
            out_features=heads * head_dim,
            in_features=(heads + 2 * kv_heads) * head_dim,
            x_dtype=x_dtype,
            y_dtype=x_dtype,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            cache_dtype=cache_dtype,
        )


def recurrent_problems(spec: OpSpec, device_type: str) -> Iterator[Problem]:
    """Yield problems of an op on states: every dtype, with some heads in turn."""
    heads_of = itertools.cycle(((4, 4, 2, 16, 8), (1, 3, 1, 10, 33), (8, 2, 2, 80, 16)))
    for dtype, (rows, heads, kv_heads, dk, dv) in zip(spec.tensors[0].dtypes, heads_of, strict=False):
        yield Problem(
            op=spec.name,
            device_type=device_type,
            rows=rows_bucket(rows),
            out_features=heads * dv,
            in_features=2 * kv_heads * dk + heads * dv,
            x_dtype=dtype_name(dtype),
            y_dtype=dtype_name(dtype),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dk,
        )


def has(spec: OpSpec, kind: type) -> bool:
    """Return whether an op has an argument of a kind."""
    return any(isinstance(argument, kind) for argument in spec.arguments)


def spec_has_outputs(spec: OpSpec) -> bool:
    """Return whether the number of outputs is a size of its own."""
    return has(spec, LayoutName) or dense_dtypes(spec) != [""]


def dense_dtypes(spec: OpSpec) -> list[str]:
    """Return the dtypes of a weight that is not packed; "" where there is none."""
    dtypes = [dtype for tensor in spec.tensors if tensor.field == "w_dtype" for dtype in tensor.dtypes]
    return [dtype_name(dtype) for dtype in dtypes] or [""]


def biases(spec: OpSpec) -> list[str]:
    """Return dtypes of the bias, of a norm's weight or of next positions; "" where there may be none."""
    tensors = [tensor for tensor in spec.tensors if tensor.field == "bias"]
    if not tensors:
        return [""]
    return [*map(dtype_name, tensors[0].dtypes[:2]), *([""] if tensors[0].optional else [])]


def layouts_of(device_type: str) -> Iterable[Layout]:
    """Return the layouts of all backends that serve a type of device."""
    by_name = {layout.name: layout for backend in registry.serving(device_type) for layout in backend.layouts()}
    return by_name.values()


def kernels_with_problems(device_type: str) -> Iterator[tuple[Kernel, list[Problem]]]:
    """Yield the kernels of the backends that serve a type of device, with the problems that they do not refuse."""
    for backend in registry.serving(device_type):
        for kernel in registry.kernels_of(backend.name):
            problems = problems_of(OPS[kernel.op].spec, device_type)
            yield kernel, [problem for problem in problems if kernel.unsupported_reason(problem) is None]


def expected_of(problem: Problem, operands: Operands, values: dict[str, object], device: torch.device) -> object:
    """Return what the fallback gives, or the steps of an op that is made of others."""
    op = OPS[problem.op]
    if op.steps is not None:
        return op.steps(*(values.get(a.name, getattr(problem, a.name, None)) for a in op.spec.arguments))
    (fallback,) = [
        other
        for other in registry.kernels_of("torch")
        if other.op == problem.op and other.unsupported_reason(problem) is None
    ]
    arguments = [values[name] for name in operands.arguments]
    return bind_call(fallback, fallback.bind(problem, None), operands, device)(*arguments)


def check(kernel: Kernel, problem: Problem, device: torch.device) -> None:
    """Compare a kernel's answers with the fallback's, with one row less than the bucket holds."""
    spec = OPS[problem.op].spec
    operands = spec.operands_of(problem, (1, max(1, problem.rows - 1)))
    values = synthetic_values(operands, device)
    arguments = [values[name] for name in operands.arguments]
    expected = in_order(expected_of(problem, operands, values, device))
    for config in kernel.all_configs(problem) if ALL_CONFIGS else kernel.configs(problem)[:1]:
        outputs = in_order(bind_call(kernel, kernel.bind(problem, config), operands, device)(*arguments))
        for output, tensor in zip(operands.outputs, outputs, strict=True):
            assert tuple(tensor.shape) == output.shape
            assert dtype_name(tensor.dtype) == output.dtype
        assert agree(problem, outputs, expected), f"{kernel.name} with {config} on {problem}"
