"""Launches of our kernels alone: all of the package's internals that providers rely on stand here.

`matmul` runs the kernel of ternary_matmul without torch's dispatch; `product` runs bit_linear on a GPU without its
quantizer. Both return a callable that takes the number of a weight copy.
"""

from collections.abc import Callable
from typing import Any

import torch

from bitnet_jit.devices.workspace import Workspace
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.calls import DISPATCHER, bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import Problem

Run = Callable[[int], Any]


def lay_out(codes: torch.Tensor, format_name: str) -> tuple[str, torch.Tensor]:
    """Pack codes (N, K) int8 on their device; return the layout's name and the weight in it."""
    layout = registry.preferred_layout(format_name, codes.device.type)
    return layout.name, layout.from_canonical(FORMATS[format_name].pack(codes), *codes.shape)


def packed_bytes(format_name: str, out_features: int, in_features: int) -> int:
    """Return the bytes of a packed weight, padding of its layout apart."""
    return FORMATS[format_name].num_bytes(out_features, in_features)


def matmul(x_q: torch.Tensor, layout: str, weights: list[torch.Tensor], acc: torch.Tensor) -> Run:
    """Return the call of the kernel that the dispatcher chooses; a Numba kernel writes into `acc`, allocating nothing.

    Args:
        x_q: (M, K) int8.
        layout: of the weights.
        weights: copies of one packed weight.
        acc: (M, N) int32, for the sums.
    """
    problem, operands = posed("ternary_matmul", x_q, weights[0], x_q.shape[1], acc.shape[1], layout)
    choice = DISPATCHER.choose(problem)
    if choice.kernel.backend == "numba":
        return entered(choice.bound, x_q, weights, acc)
    return on_tensors(bind_call(choice.kernel, choice.bound, operands, x_q.device), x_q, weights, acc)


def entered(bound: Any, x_q: torch.Tensor, weights: list[torch.Tensor], acc: torch.Tensor) -> Run:
    """Return the entry of a Numba kernel by addresses, with nothing around it."""
    from bitnet_jit.kernels.numba.tensors import FORK

    rows, workspace = len(x_q), Workspace()
    entry, numbers = bound.entry(rows), bound.numbers(rows)
    workspace.take(bound.workspace_bytes(rows, 1))

    def run(number: int) -> None:
        x, w, y = x_q.data_ptr(), weights[number % len(weights)].data_ptr(), acc.data_ptr()
        entry(None, FORK.address, torch.get_num_threads(), x, 0, w, 0, 0, y, *numbers, workspace.address)

    return run


def on_tensors(call: Callable[..., Any], x_q: torch.Tensor, weights: list[torch.Tensor], acc: torch.Tensor) -> Run:
    """Return the op's call; only the sums of weight copy 0, which are looked at, are put in `acc`."""

    def run(number: int) -> None:
        sums = call(x_q, weights[number % len(weights)])
        if number == 0:
            acc.copy_(sums)

    return run


def posed(op: str, *arguments: Any) -> tuple[Problem, Operands]:
    """Return the problem that a call of an op poses, and the operands of its kernels."""
    spec = OPS[op].spec
    seen = spec.check(arguments)
    problem = spec.problem(seen)
    return problem, spec.operands_of(problem, seen.sizes[...])


def product(
    x: torch.Tensor, w_scale: torch.Tensor, out_features: int, layout: str, weights: list[torch.Tensor]
) -> tuple[Run, Callable[[], torch.Tensor]]:
    """Return the launches of bit_linear behind its quantizer, which runs here once, and a callable for y (M, N).

    They are those of the first kernel that quantizes and multiplies in launches apart.

    Args:
        x: (M, K) bfloat16 on a GPU.
        w_scale: float32 ().
        out_features: N.
        layout: of the weights.
        weights: copies of one packed weight (N, K).
    """
    from bitnet_jit.kernels.triton.device.launch import prepare
    from bitnet_jit.kernels.triton.tensors import kinds_of, outputs_of, scratch_of

    options = x.shape[1], out_features, layout, 0, "a8"
    problem, call_operands = posed("bit_linear", x, weights[0], w_scale, None, *options)
    bounds = (kernel.bind(problem, kernel.configs(problem)[0]) for kernel in registry.candidates(problem)[0])
    bound = next(bound for bound in bounds if len(bound.launches(len(x))) > 1)
    scratch = scratch_of(bound, len(x))
    tensors = {"x": x, "w_scale": w_scale, "w_packed": weights[0]}
    for name, (shape, dtype) in (outputs_of(call_operands) | scratch).items():
        tensors[name] = x.new_empty(shape, dtype=dtype)
    names, kinds = tuple(tensors), kinds_of(call_operands, scratch)
    quantize, *multiply = (prepare(launch, names, kinds) for launch in bound.launches(len(x)))
    addresses = [
        [*(tensor.data_ptr() for tensor in (tensors | {"w_packed": weight}).values()), None] for weight in weights
    ]
    quantize(torch.cuda.current_stream().cuda_stream, addresses[0])

    def run(number: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for launch in multiply:
            launch(stream, addresses[number % len(weights)])  # which keeps the weights alive

    return run, lambda: tensors["y"]  # which keeps all other tensors alive
