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
    in_features, out_features = problem.in_features, problem.out_features
    entry, workspace_bytes, sizes = bound.entry, bound.workspace_bytes, bound.sizes

    def plan(x, w_packed, w_scale, bias):
        x, w_packed, w_scale = contiguous(x), contiguous(w_packed), contiguous(w_scale)
        y = x.new_empty((*x.shape[:-1], out_features))
        rows = x.numel() // in_features
        if rows:
            bias_address = 0 if bias is None else (bias := contiguous(bias)).data_ptr()
            entry(rows)(
                None,
                FORK.address,
                THREADS.get(),
                x.data_ptr(),
                0,
                w_packed.data_ptr(),
                w_scale.data_ptr(),
                bias_address,
                y.data_ptr(),
                rows,
                *sizes,
                WORKSPACE.take(workspace_bytes(rows)),
            )
        return y

    return plan


def bind_quantized_linear(bound: Any, problem: Problem) -> Callable[..., torch.Tensor]:
    in_features, out_features = problem.in_features, problem.out_features
    entry, workspace_bytes, sizes = bound.entry, bound.workspace_bytes, bound.sizes
    y_dtype = getattr(torch, problem.y_dtype)

    def plan(x_q, x_scale, w_packed, w_scale, bias):
        x_q, x_scale, w_packed, w_scale = map(contiguous, (x_q, x_scale, w_packed, w_scale))
        y = x_q.new_empty((*x_q.shape[:-1], out_features), dtype=y_dtype)
        rows = x_q.numel() // in_features
        if rows:
            bias_address = 0 if bias is None else (bias := contiguous(bias)).data_ptr()
            entry(rows)(
                None,
                FORK.address,
                THREADS.get(),
                x_q.data_ptr(),
                x_scale.data_ptr(),
                w_packed.data_ptr(),
                w_scale.data_ptr(),
                bias_address,
                y.data_ptr(),
                rows,
                *sizes,
                WORKSPACE.take(workspace_bytes(rows)),
            )
        return y

    return plan


def bind_ternary_matmul(bound: Any, problem: Problem) -> Callable[..., torch.Tensor]:
    linear = bind_quantized_linear(bound, problem)
    no_scale = torch.empty(0)
    return lambda x_q, w_packed: linear(x_q, no_scale, w_packed, no_scale, None)


BINDERS: dict[str, Callable[[Any, Problem], Callable[..., Any]]] = {
    "bit_linear": bind_bit_linear,
    "quantized_linear": bind_quantized_linear,
    "ternary_matmul": bind_ternary_matmul,
}
