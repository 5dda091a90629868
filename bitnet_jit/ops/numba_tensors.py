"""Torch tensors to the addresses that Numba kernels take: allocate the output, take scratch memory, launch."""

from collections.abc import Callable
from typing import Any

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.threads import Fork
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.threads import THREADS
from bitnet_jit.runtime.workspace import Workspace

FORK = Fork()
WORKSPACE = Workspace()


def contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied only if it is not contiguous."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def bind(kernel: Kernel, config: Config, problem: Problem) -> Callable[..., Any]:
    """A Numba kernel as a plan on tensors."""
    bound = kernel.bind(problem, config)
    return BINDERS[problem.op](bound, problem)


def bind_bit_linear(bound: Any, problem: Problem) -> Callable[..., torch.Tensor]:
    """bit_linear(x, w_packed, w_scale, bias). Every tenth of a microsecond counts here."""
    in_features, out_features, sizes = problem.in_features, problem.out_features, bound.sizes
    ready = ReadyCalls(bound)

    def plan(x, w_packed, w_scale, bias):
        if not (x.is_contiguous() and w_packed.is_contiguous() and w_scale.is_contiguous()):
            x, w_packed, w_scale = x.contiguous(), w_packed.contiguous(), w_scale.contiguous()
        shape = x.shape
        rows = shape[0] if len(shape) == 2 else x.numel() // in_features
        y = x.new_empty((rows, out_features) if len(shape) == 2 else (*shape[:-1], out_features))
        if rows:
            entry, num_bytes = ready[rows]
            entry(
                None,
                FORK.address,
                THREADS.get(),
                x.data_ptr(),
                0,
                w_packed.data_ptr(),
                w_scale.data_ptr(),
                0 if bias is None else (bias := contiguous(bias)).data_ptr(),
                y.data_ptr(),
                rows,
                *sizes,
                WORKSPACE.take(num_bytes),
            )
        return y

    return plan


class ReadyCalls(dict[int, tuple[Callable[..., None], int]]):
    """rows -> the compiled kernel for them and the bytes of its scratch memory, found at the first call."""

    def __init__(self, bound: Any) -> None:
        super().__init__()
        self._bound = bound

    def __missing__(self, rows: int) -> tuple[Callable[..., None], int]:
        ready = self[rows] = self._bound.entry(rows), self._bound.workspace_bytes(rows)
        return ready


def bind_quantized_linear(bound: Any, problem: Problem) -> Callable[..., torch.Tensor]:
    """quantized_linear(x_q, x_scale, w_packed, w_scale, bias)."""
    in_features, out_features, sizes = problem.in_features, problem.out_features, bound.sizes
    y_dtype, ready = getattr(torch, problem.y_dtype), ReadyCalls(bound)

    def plan(x_q, x_scale, w_packed, w_scale, bias):
        x_q, x_scale, w_packed, w_scale = map(contiguous, (x_q, x_scale, w_packed, w_scale))
        y = x_q.new_empty((*x_q.shape[:-1], out_features), dtype=y_dtype)
        if rows := x_q.numel() // in_features:
            entry, num_bytes = ready[rows]
            entry(
                None,
                FORK.address,
                THREADS.get(),
                x_q.data_ptr(),
                x_scale.data_ptr(),
                w_packed.data_ptr(),
                w_scale.data_ptr(),
                0 if bias is None else (bias := contiguous(bias)).data_ptr(),
                y.data_ptr(),
                rows,
                *sizes,
                WORKSPACE.take(num_bytes),
            )
        return y

    return plan


def bind_ternary_matmul(bound: Any, problem: Problem) -> Callable[..., torch.Tensor]:
    linear = bind_quantized_linear(bound, problem)
    no_scale = torch.empty(0)
    return lambda x_q, w_packed: linear(x_q, no_scale, w_packed, no_scale, None)


def bind_rows(bound: Any, problem: Problem) -> Callable[..., Any]:
    """Row-wise ops: (x), (x, weight, eps) or (gate, up, weight, eps) -> y, or codes and scales."""
    features, entry = problem.in_features, bound.entry
    quantizes = problem.op != "rms_norm"

    def run(x, up, weight, eps):
        x = contiguous(x)
        up = None if up is None else contiguous(up)
        weight = None if weight is None else contiguous(weight)
        y = torch.empty_like(x, dtype=torch.int8 if quantizes else x.dtype)
        scale = x.new_empty(x.shape[:-1], dtype=torch.float32) if quantizes else None
        if rows := x.numel() // features:
            threads = THREADS.get()
            entry(
                None,
                FORK.address,
                threads,
                x.data_ptr(),
                0 if up is None else up.data_ptr(),
                0 if weight is None else weight.data_ptr(),
                eps,
                y.data_ptr(),
                0 if scale is None else scale.data_ptr(),
                rows,
                features,
                WORKSPACE.take(bound.workspace_bytes(threads)),
            )
        return y if scale is None else (y, scale)

    if problem.op == "quantize_activation":
        return lambda x: run(x, None, None, 0.0)
    if problem.op == "relu2_mul_norm_quantize":
        return run
    return lambda x, weight, eps: run(x, None, weight, eps)


BINDERS: dict[str, Callable[[Any, Problem], Callable[..., Any]]] = {
    "bit_linear": bind_bit_linear,
    "quantized_linear": bind_quantized_linear,
    "ternary_matmul": bind_ternary_matmul,
    "quantize_activation": bind_rows,
    "rms_norm": bind_rows,
    "rms_norm_quantize": bind_rows,
    "relu2_mul_norm_quantize": bind_rows,
}
