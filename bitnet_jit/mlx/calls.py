"""Calls of ops on MLX's arrays: checked by the ops' records, run by kernels of the backend "mlx", kept by their kinds.

A check sees torch tensors without memory that have the shapes and dtypes of the arrays. It runs once for each kind of
call: what it looks at, the key of the kept calls holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import torch

import bitnet_jit.ops  # noqa: F401, which registers all ops
from bitnet_jit.devices.mlx import MLX
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.arguments import Dtype, Tensor
from bitnet_jit.ops.call_cache import keep, new_calls
from bitnet_jit.ops.calls import make_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

NAMES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64")
DTYPES: dict[mx.Dtype, torch.dtype] = {getattr(mx, name): getattr(torch, name) for name in NAMES}
CALLS = new_calls()
PLACE = torch.device("cpu")  # of tensors that a tuned call is timed on


def call(op: str, *values: Any) -> Any:
    """Run an op on arrays, as `torch.ops.bitnet_jit` runs it on tensors.

    Args:
        op: its name, such as "rms_norm".
        values: the arguments of the op in order; arrays of MLX where torch takes tensors, `mx.Dtype` for dtypes.

    Returns:
        Its outputs: an array, or several as a tuple. Those of an op that writes into arguments are followed by the new
        values of these, since arrays of MLX stay as they are.

    Raises:
        InvalidInput: there is no such op, or an argument is not what it takes.
        UnsupportedProblem: no kernel runs it.

    >>> call("hadamard", mx.ones((1, 4)), None, 4).tolist()
    [[2.0, 0.0, 0.0, 0.0]]
    """
    key = (op, mx.default_device().type, *map(facts_of, values))
    try:
        run = CALLS.get(key)
    except TypeError:  # a value without a hash, of which the check tells
        run = None
    if run is None:
        run = make(op, values)
        keep(CALLS, key, run)
    return run(*values)


def facts_of(value: Any) -> Any:
    """Return what checks look at: of an array its shape and dtype."""
    return (value.shape, value.dtype) if type(value) is mx.array else value


def checked(op: str, values: Sequence[Any]) -> tuple[Any, Any]:
    """Return the record of an op and what a check of its arguments has seen; InvalidInput where one is wrong."""
    if op not in OPS:
        raise InvalidInput(f"op: expected one of {', '.join(sorted(OPS))}, got {op!r}")
    spec = OPS[op].spec
    required = [argument for argument in spec.arguments if getattr(argument, "default", None) is None]
    if not len(required) <= len(values) <= len(spec.arguments):
        raise InvalidInput(f"{op}: expected {len(required)} arguments, as in {spec.schema}, got {len(values)}")
    return spec, spec.check(
        [stand_in(argument, value) for argument, value in zip(spec.arguments, values, strict=False)]
    )


def problem_of(op: str, values: Sequence[Any]) -> Problem:
    """Return the problem that a call poses; InvalidInput where an argument is wrong."""
    spec, seen = checked(op, values)
    return on_device(spec.problem(seen))


def on_device(problem: Problem) -> Problem:
    """Return a problem as one of MLX's default device."""
    return replace(problem, device_type=MLX.type, device=MLX.name(None), gpu=MLX.gpu(None))


def make(op: str, values: Sequence[Any]) -> Callable[..., Any]:
    """Return what runs arguments of an op, once they have been checked; it takes all of them."""
    spec, seen = checked(op, values)
    problem = on_device(spec.problem(seen))
    run = make_call(problem, spec.operands_of(problem, seen.sizes.get(..., ())), PLACE)
    places = [place for place, argument in enumerate(spec.arguments) if argument.name in spec.operands]
    return lambda *values: run(*(values[place] for place in places))


def stand_in(argument: Any, value: Any) -> Any:
    """Return what the check of an argument is shown: a tensor without memory for an array, torch's dtype for one."""
    if isinstance(argument, Dtype):
        return DTYPES.get(value, value) if isinstance(value, mx.Dtype) else repr(value)
    if not isinstance(argument, Tensor) or value is None and argument.optional:
        return value
    if not isinstance(value, mx.array):
        raise InvalidInput(f"{argument.name}: expected an array of MLX, got {type(value).__name__}")
    if value.dtype not in DTYPES:
        raise InvalidInput(f"{argument.name}: expected one of {', '.join(NAMES)}, got {value.dtype}")
    return torch.empty(value.shape, dtype=DTYPES[value.dtype], device="meta")
