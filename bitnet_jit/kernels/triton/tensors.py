"""Torch tensors to launches of Triton kernels: allocate outputs and what lies between launches, hand over addresses.

Everything is allocated by torch, so that streams and graphs are its concern: memory that a graph's capture allocates
belongs to the graph. Nothing here waits for the device.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch._C._dynamo import guards

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.strided import NO_MEMORY, row_distance, strides
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Run, Varying, compiled, prepare
from bitnet_jit.kernels.triton.device.target import interpreted

MAX_CALLS = 4096  # of different shapes, that are kept for one problem
WRITTEN = ("keys", "values", "history", "states", "next_tokens", "next_positions")  # arguments that launches write into
PARTS = ("gate", "up", "mixed")  # may be parts of a wider tensor: launches are handed the distance of rows, too
NUMBERS = {"eps": 1e-5, "row_stride": ALIGN}  # examples
# (shape, strides, dtype) -> a tensor on the current device; as Inductor's code allocates, in half the time of new_empty
empty_strided: Any = getattr(guards, "_empty_strided_cpu" if interpreted() else "_empty_strided_cuda")
Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


def bind_call(bound: Bound | Varying, operands: Operands, device: torch.device) -> Call:
    """Return the call of a kernel on one device: (*arguments) -> its output or outputs."""
    if isinstance(bound, Varying):
        return varying_call(bound, operands, device)
    outputs, scratch, inputs = outputs_of(operands), scratch_of(bound, operands.rows), inputs_of(operands)
    names, kinds = (*inputs, *outputs, *scratch), kinds_of(operands, scratch)
    with kind_of(device).current(device):
        runs = [prepare(launch, names, kinds) for launch in bound.launches(operands.rows)] if operands.rows else []
    call = make_call(runs, inputs, outputs, scratch, device.index or 0)
    if "row_stride" not in inputs:
        return call

    count = len(parts_of(operands))

    def on_parts(*arguments):
        *parts, stride = in_rows(*arguments[:count])
        return call(*parts, *arguments[count:], stride)

    return on_parts


def parts_of(operands: Operands) -> tuple[str, ...]:
    """Return the names of the arguments that may be parts of a wider tensor; they are the first ones."""
    return tuple(name for name in operands.arguments if name in PARTS)


def varying_call(bound: Varying, operands: Operands, device: torch.device) -> Call:
    """Return the call of a kernel that is bound anew to every set of shapes, when it is first seen."""
    calls: dict[tuple[torch.Size | None, ...], Call] = {}

    def call(*arguments):
        shapes = tuple([None if a is None else a.shape for a in arguments])
        run = calls.get(shapes)
        if run is None:
            if len(calls) >= MAX_CALLS:
                calls.clear()
            here = operands.with_shapes(shapes)
            run = calls[shapes] = bind_call(fixed(bound, here), here, device)
        return run(*arguments)

    return call


def fixed(bound: Bound | Varying, operands: Operands) -> Bound:
    """Return a kernel bound to the shapes of the operands."""
    return bound.of({a.name: a.shape for a in operands.inputs}) if isinstance(bound, Varying) else bound


def compile_only(bound: Bound | Varying, operands: Operands) -> None:
    """Compile what `bind_call` would, into Triton's disk cache, and load nothing."""
    bound = fixed(bound, operands)
    kinds = kinds_of(operands, scratch_of(bound, operands.rows))
    for launch in bound.launches(operands.rows):
        compiled(launch, kinds)


def make_call(runs: list[Run], inputs: tuple[str, ...], outputs: Shapes, scratch: Shapes, index: int) -> Call:
    """Return what a call does; every tenth of a microsecond counts here."""
    tensors = [(place, name not in PARTS) for place, name in enumerate(inputs) if name not in NUMBERS]
    written = {place for place, name in enumerate(inputs) if name in WRITTEN}
    num_bytes, split = splitter(scratch)
    allocate, takes_tensors = allocator(outputs, num_bytes), interpreted()
    launch_all = interpret_all if takes_tensors else launch_on_stream

    def call(*arguments):
        if not takes_tensors and torch._C._cuda_getDevice() != index:
            with torch.cuda.device(index):  # of the tensors: for what is allocated and launched here
                return call(*arguments)
        operands, kept, copied = list(arguments), [], []
        for place, whole in tensors:
            a = operands[place]
            if a is None:
                continue
            address = a.data_ptr()
            if not address and runs:
                raise InvalidInput(NO_MEMORY)
            if whole and (address % ALIGN or not a.is_contiguous()):
                original, a = a, a.clone(memory_format=torch.contiguous_format)
                kept.append(a)  # until the launch, or an output would be laid over it
                if place in written:
                    copied.append((original, a))
                address = a.data_ptr()
            operands[place] = a if takes_tensors else address
        results = allocate()
        memory = results.pop() if num_bytes else None
        for a in results:
            operands.append(a if takes_tensors else a.data_ptr())
        if memory is not None:
            operands += split(memory)
        operands.append(None)  # for what a launch has none of
        launch_all(runs, index, operands)
        for original, a in copied:
            original.copy_(a)
        return tuple(results) if len(results) > 1 else results[0]

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


def in_rows(*parts: torch.Tensor) -> tuple[Any, ...]:
    """Return tensors (..., K) as rows at one distance, and that distance in elements; copied if need be."""
    features, distances = parts[0].shape[-1], {row_distance(part) for part in parts}
    distance = distances.pop()
    fits = distance == features or features % ALIGN == 0 and distance % ALIGN == 0
    if fits and distance > 0 and not distances and not any(part.data_ptr() % ALIGN for part in parts):
        return *parts, distance
    return *(part.clone(memory_format=torch.contiguous_format) for part in parts), features


def allocator(outputs: Shapes, num_bytes: int) -> Callable[[], list[torch.Tensor]]:
    """Return what makes an op's outputs, and behind them the scratch memory if there is any, on the current device."""
    memory = {"memory": ((num_bytes,), torch.uint8)} if num_bytes else {}
    parts = [(shape, strides(shape), dtype) for shape, dtype in (outputs | memory).values()]
    return lambda: [empty_strided(*part) for part in parts]


def splitter(scratch: Shapes) -> tuple[int, Callable[[torch.Tensor], list[Any]]]:
    """Return the bytes that all scratch tensors take in one block of memory, and what gives their operands in it."""
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


def inputs_of(operands: Operands) -> tuple[str, ...]:
    """Return the names of what launches are handed."""
    names = operands.arguments
    return (*names, "row_stride") if parts_of(operands) else names


def outputs_of(operands: Operands) -> Shapes:
    """Return the shape and dtype of each output by its name."""
    return {output.name: (output.shape, getattr(torch, output.dtype)) for output in operands.outputs}


def scratch_of(bound: Bound, rows: int) -> Shapes:
    """Return the shape and dtype of each tensor that lives between the launches of a call."""
    return {name: ((count,), getattr(torch, dtype)) for name, (count, dtype) in bound.scratch(rows).items()}


def kinds_of(operands: Operands, scratch: Shapes) -> dict[str, Any]:
    """Return the dtype of each operand that is there, and a number for those that are numbers."""
    tensors = {operand.name: getattr(torch, operand.dtype) for operand in operands.inputs if operand.dtype}
    others = outputs_of(operands) | scratch
    return NUMBERS | tensors | {name: dtype for name, (_, dtype) in others.items()}
