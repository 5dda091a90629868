"""Torch tensors to launches of Triton kernels: allocate outputs and what lies between launches, hand over addresses.

Everything is allocated by torch, so that streams and graphs are its concern: memory that a graph's capture allocates
belongs to the graph. Nothing here waits for the device.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from bitnet_jit.kernels.triton.launch import Bound, Run, prepare
from bitnet_jit.kernels.triton.target import interpreted
from bitnet_jit.problem import Problem

ALIGN = 16  # bytes; what kernels are compiled for
INPUTS = {  # the operands of each op in the order of its arguments
    "bit_linear": ("x", "w_packed", "w_scale", "bias"),
    "quantized_linear": ("x_q", "x_scale", "w_packed", "w_scale", "bias"),
    "ternary_matmul": ("x_q", "w_packed"),
    "bit_linear_input_grad": ("dy", "w_packed", "w_scale"),
    "quantize_activation": ("x",),
    "rms_norm": ("x", "weight", "eps"),
    "rms_norm_quantize": ("x", "weight", "eps"),
    "relu2_mul_norm_quantize": ("gate", "up", "weight", "eps"),
}
OF_X = ("x", "x_q", "dy", "gate", "up")  # operands in the dtype of the first


def bind(bound: Bound, problem: Problem, shape: torch.Size, device: torch.device) -> Callable[..., Any]:
    """The call of an op for a shape of its first argument on one device: (*arguments) -> its output or outputs."""
    outputs = outputs_of(problem, shape)
    rows = shape[:-1].numel()
    if not rows:
        return lambda *inputs: allocate(outputs, device)
    scratch, num_bytes = scratch_of(bound, rows)
    names = (*INPUTS[problem.op], *outputs, *scratch)
    kinds = kinds_of(problem) | {name: dtype for name, (_, dtype) in outputs.items()}
    kinds |= {name: dtype for name, (_, _, dtype) in scratch.items()}
    with on(device):
        runs = [prepare(launch, names, kinds) for launch in bound.launches(rows)]
    hand_over = as_tensors if interpreted() else as_addresses
    index = device.index or 0

    def call(*arguments):
        inputs = [a if a is None or type(a) is float else fit(a) for a in arguments]
        found = [torch.empty(output_shape, dtype=dtype, device=device) for output_shape, dtype in outputs.values()]
        between = torch.empty(num_bytes, dtype=torch.uint8, device=device) if num_bytes else None
        launch_all(runs, index, hand_over(inputs, found, between, scratch))
        return found[0] if len(found) == 1 else tuple(found)

    return call


def fit(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as kernels are compiled for it: without gaps, at an aligned address; copied where it is not."""
    if not tensor.is_contiguous():
        return tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGN else tensor


def launch_all(runs: list[Run], index: int, operands: tuple[Any, ...]) -> None:
    """Launch on the current stream of the tensors' device, which need not be the current device."""
    if interpreted():
        for run in runs:
            run(0, operands)
        return
    if torch._C._cuda_getDevice() != index:
        with torch.cuda.device(index):
            return launch_all(runs, index, operands)
    stream = torch._C._cuda_getCurrentRawStream(index)
    for run in runs:
        run(stream, operands)


def as_addresses(inputs, outputs, between, scratch) -> tuple[Any, ...]:
    """Operands as compiled kernels take them."""
    base = between.data_ptr() if between is not None else 0
    return (
        *[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in inputs],
        *[a.data_ptr() for a in outputs],
        *[base + first for first, _, _ in scratch.values()],
        None,
    )


def as_tensors(inputs, outputs, between, scratch) -> tuple[Any, ...]:
    """Operands as the interpreter takes them."""
    views = [between[first : first + count * dtype.itemsize].view(dtype) for first, count, dtype in scratch.values()]
    return (*inputs, *outputs, *views, None)


def allocate(outputs: dict[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> Any:
    """Outputs of no rows."""
    found = tuple(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in outputs.values())
    return found if len(found) > 1 else found[0]


def outputs_of(problem: Problem, shape: torch.Size) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each output of an op by the name of its operand."""
    if problem.op in ("quantize_activation", "rms_norm_quantize", "relu2_mul_norm_quantize"):
        return {"x_q": (tuple(shape), torch.int8), "x_scale": (tuple(shape[:-1]), torch.float32)}
    if problem.op == "rms_norm":
        return {"y": (tuple(shape), getattr(torch, problem.y_dtype))}
    if problem.op == "bit_linear_input_grad":
        return {"dx": ((*shape[:-1], problem.in_features), getattr(torch, problem.y_dtype))}
    return {"y": ((*shape[:-1], problem.out_features), getattr(torch, problem.y_dtype))}


def kinds_of(problem: Problem) -> dict[str, Any]:
    """The dtypes of an op's inputs, and a number for those that are numbers."""
    fixed = {"w_packed": torch.uint8, "w_scale": torch.float32, "x_scale": torch.float32, "eps": 1e-5}
    by_bias = {name: getattr(torch, problem.bias) for name in ("bias", "weight") if problem.bias}
    return {name: getattr(torch, problem.x_dtype) for name in OF_X} | fixed | by_bias


def scratch_of(bound: Bound, rows: int) -> tuple[dict[str, tuple[int, int, torch.dtype]], int]:
    """First byte, number of elements and dtype of each tensor between launches in one block of memory; its size."""
    found, num_bytes = {}, 0
    for name, (count, dtype_name) in bound.scratch(rows).items():
        dtype = getattr(torch, dtype_name)
        found[name] = (num_bytes, count, dtype)
        num_bytes += -(-count * dtype.itemsize // ALIGN) * ALIGN
    return found, num_bytes


def on(device: torch.device) -> Any:
    """A context in which a device is the current one; the CPU always is."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
