"""Torch tensors to launches of Triton kernels: allocate outputs and what lies between launches, hand over addresses.

Everything is allocated by torch, so that streams and graphs are its concern: memory that a graph's capture allocates
belongs to the graph. Nothing here waits for the device.
"""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch._C._dynamo import guards

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.registry import get_layout
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Run, compiled, prepare
from bitnet_jit.kernels.triton.device.target import interpreted
from bitnet_jit.ops.calls import ARGUMENTS, NO_MEMORY, on, strides
from bitnet_jit.problem import Problem

INPUTS = {  # what launches of each op are handed; the distance of rows, of gate and up, by `in_rows`
    op: (*names, "row_stride") if "gate" in names else names for op, names in ARGUMENTS.items()
}
GATED = ("gate", "up")  # may be parts of a wider tensor
NUMBERS = {"eps": 1e-5, "row_stride": ALIGN}  # examples
# (shape, strides, dtype) -> a tensor on the current device; as Inductor's code allocates, in half the time of new_empty
empty_strided: Any = getattr(guards, "_empty_strided_cpu" if interpreted() else "_empty_strided_cuda")
Call = Callable[..., Any]
Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


def bind(bound: Bound, problem: Problem, shape: torch.Size, device: torch.device) -> Call:
    """The call of an op for a shape of its first argument on one device: (*arguments) -> its output or outputs."""
    outputs, rows = outputs_of(problem, shape), shape[:-1].numel()
    scratch, inputs = scratch_of(bound, rows), INPUTS[problem.op]
    names, kinds = (*inputs, *outputs, *scratch), kinds_of(problem, outputs | scratch)
    with on(device):
        runs = [prepare(launch, names, kinds) for launch in bound.launches(rows)] if rows else []
    call = make_call(runs, inputs, outputs, scratch, device.index or 0)
    if "row_stride" not in inputs:
        return call

    def gated(gate, up, weight, eps):
        gate, up, stride = in_rows(gate, up)
        return call(gate, up, weight, eps, stride)

    return gated


def compile_only(bound: Bound, problem: Problem, shape: torch.Size) -> None:
    """Compile what `bind` would, into Triton's disk cache, and load nothing."""
    rows = shape[:-1].numel()
    kinds = kinds_of(problem, outputs_of(problem, shape) | scratch_of(bound, rows))
    for launch in bound.launches(rows):
        compiled(launch, kinds)


def make_call(runs: list[Run], inputs: tuple[str, ...], outputs: Shapes, scratch: Shapes, index: int) -> Call:
    """What a call does; every tenth of a microsecond counts here."""
    tensors = [(place, name not in GATED) for place, name in enumerate(inputs) if name not in NUMBERS]
    num_bytes, split = splitter(scratch)
    allocate, takes_tensors = allocator(outputs, num_bytes), interpreted()
    launch_all = interpret_all if takes_tensors else launch_on_stream

    def call(*arguments):
        if not takes_tensors and torch._C._cuda_getDevice() != index:
            with torch.cuda.device(index):  # of the tensors: for what is allocated and launched here
                return call(*arguments)
        operands, kept = list(arguments), []
        for place, whole in tensors:
            a = operands[place]
            if a is None:
                continue
            address = a.data_ptr()
            if not address and runs:
                raise InvalidInput(NO_MEMORY)
            if whole and (address % ALIGN or not a.is_contiguous()):
                a = a.clone(memory_format=torch.contiguous_format)
                kept.append(a)  # until the launch, or an output would be laid over it
                address = a.data_ptr()
            operands[place] = a if takes_tensors else address
        found = allocate()
        memory = found.pop() if num_bytes else None
        for a in found:
            operands.append(a if takes_tensors else a.data_ptr())
        if memory is not None:
            operands += split(memory)
        operands.append(None)  # for what a launch has none of
        launch_all(runs, index, operands)
        return tuple(found) if len(found) > 1 else found[0]

    return call


def launch_on_stream(runs: list[Run], index: int, operands: list[Any]) -> None:
    """Launch on the current stream of the tensors' device, which is the current one."""
    stream = torch._C._cuda_getCurrentRawStream(index)
    for run in runs:
        run(stream, operands)


def interpret_all(runs: list[Run], index: int, operands: list[Any]) -> None:
    """Run in Triton's interpreter, where there is no stream."""
    for run in runs:
        run(0, operands)


def in_rows(gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """gate and up (..., K) as rows at one distance, and that distance in elements; copied where they do not lie so."""
    features, distance = gate.shape[-1], row_distance(gate)
    fits = distance == features or features % ALIGN == 0 and distance % ALIGN == 0
    if fits and 0 < distance == row_distance(up) and not (gate.data_ptr() | up.data_ptr()) % ALIGN:
        return gate, up, distance
    whole = torch.contiguous_format
    return gate.clone(memory_format=whole), up.clone(memory_format=whole), features


def row_distance(a: torch.Tensor) -> int:
    """The distance of the rows of a (..., K) in elements; 0 where there is no single one."""
    if a.is_contiguous():
        return a.shape[-1]
    if a.stride(-1) != 1:
        return 0
    distances = [(size, stride) for size, stride in zip(a.shape[:-1], a.stride()[:-1], strict=True) if size > 1]
    for (_, outer), (size, inner) in pairwise(distances):
        if outer != size * inner:
            return 0
    return distances[-1][1]


def allocator(outputs: Shapes, num_bytes: int) -> Callable[[], list[torch.Tensor]]:
    """What makes an op's outputs, and behind them the scratch memory if there is any, on the current device."""
    memory = {"memory": ((num_bytes,), torch.uint8)} if num_bytes else {}
    parts = [(shape, strides(shape), dtype) for shape, dtype in (outputs | memory).values()]
    return lambda: [empty_strided(*part) for part in parts]


def splitter(scratch: Shapes) -> tuple[int, Callable[[torch.Tensor], list[Any]]]:
    """The bytes that all scratch tensors take in one block of memory, and what gives their operands in a block."""
    parts, num_bytes = [], 0
    for shape, dtype in scratch.values():
        size = prod(shape) * dtype.itemsize
        parts.append((num_bytes, size, dtype))
        num_bytes += -(-size // ALIGN) * ALIGN
    if interpreted():
        return num_bytes, lambda memory: [memory[first : first + size].view(dtype) for first, size, dtype in parts]
    offsets = [first for first, _, _ in parts]

    def addresses(memory: torch.Tensor) -> list[int]:
        base = memory.data_ptr()
        return [base + offset for offset in offsets]

    return num_bytes, addresses


def outputs_of(problem: Problem, shape: torch.Size) -> Shapes:
    """Shape and dtype of each output of an op by the name of its operand."""
    if problem.op == "quantize_activation" or problem.op.endswith("norm_quantize"):
        return {"x_q": (tuple(shape), torch.int8), "x_scale": (tuple(shape[:-1]), torch.float32)}
    if problem.op == "rms_norm":
        return {"y": (tuple(shape), getattr(torch, problem.y_dtype))}
    if problem.op == "rms_norm_gradients":
        return {
            "dx": (tuple(shape), getattr(torch, problem.x_dtype)),
            "dw": ((problem.in_features,), getattr(torch, problem.bias)),
        }
    if problem.op == "bit_linear_input_grad":
        return {"dx": ((*shape[:-1], problem.in_features), getattr(torch, problem.y_dtype))}
    if problem.op == "quantize_weight":
        packed = get_layout(problem.layout).shape(problem.out_features, problem.in_features)
        return {"w_packed": (packed, torch.uint8), "w_scale": ((), torch.float32)}
    if problem.op == "dequantize_weight":
        return {"w": ((problem.out_features, problem.in_features), getattr(torch, problem.y_dtype))}
    if problem.op == "dequantize_activation":
        return {"x": (tuple(shape), getattr(torch, problem.y_dtype))}
    return {"y": ((*shape[:-1], problem.out_features), getattr(torch, problem.y_dtype))}


def scratch_of(bound: Bound, rows: int) -> Shapes:
    """Shape and dtype of each tensor that lives between the launches of a call."""
    return {name: ((count,), getattr(torch, dtype)) for name, (count, dtype) in bound.scratch(rows).items()}


def kinds_of(problem: Problem, others: Shapes) -> dict[str, Any]:
    """The dtype of each operand, and a number for those that are numbers."""
    fixed = {"w_packed": torch.uint8, "w_scale": torch.float32, "x_scale": torch.float32}
    by_bias = {name: getattr(torch, problem.bias) for name in ("bias", "weight") if problem.bias}
    of_x = {name: getattr(torch, problem.x_dtype) for name in ("x", "x_q", "dy", "gate", "up", "weight")}
    return NUMBERS | of_x | fixed | by_bias | {name: dtype for name, (_, dtype) in others.items()}
