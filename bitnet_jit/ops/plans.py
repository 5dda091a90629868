"""From a problem to a callable on tensors, made once and kept: what stands between an op and a kernel's launch."""

from collections.abc import Callable
from typing import Any

import torch

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.device import fingerprint
from bitnet_jit.runtime.dispatcher import Dispatcher

Plan = Callable[..., Any]

DISPATCHER = Dispatcher()


def bind_torch(kernel: Kernel, config: Config, problem: Problem) -> Plan:
    """A torch kernel as a plan: it computes on rows, the plan keeps the leading dimensions."""
    run = kernel.bind(problem, config)

    def plan(x: torch.Tensor, *others: Any) -> Any:
        leading = x.shape[:-1]
        rows = [a.reshape(-1, x.shape[-1]) if isinstance(a, torch.Tensor) and a.shape == x.shape else a for a in others]
        if problem.op == "quantized_linear":
            rows[0] = rows[0].reshape(-1)  # x_scale (...)
        result = run(x.reshape(leading.numel(), x.shape[-1]), *rows)
        if isinstance(result, tuple):
            x_q, x_scale = result
            return x_q.reshape(*leading, x_q.shape[-1]), x_scale.reshape(leading)
        return result.reshape(*leading, result.shape[-1])

    return plan


def bind_numba(kernel: Kernel, config: Config, problem: Problem) -> Plan:
    """A Numba kernel as a plan; Numba is imported with the first one."""
    from bitnet_jit.ops import numba_tensors

    return numba_tensors.bind(kernel, config, problem)


BINDERS: dict[str, Callable[[Kernel, Config, Problem], Plan]] = {"torch": bind_torch, "numba": bind_numba}


def make_plan(problem: Problem) -> Plan:
    """The plan for a problem: the dispatcher's choice, bound to its backend's way of taking tensors."""
    choice = DISPATCHER.choose(problem)
    backend = choice.kernel.name.partition(".")[0]
    return BINDERS[backend](choice.kernel, choice.config, problem)


def describe(op: str, x: torch.Tensor, rows: int, out_features: int, **fields: Any) -> Problem:
    """The problem of one call; `fields` are those of Problem that the op decides."""
    return Problem(
        op=op,
        device_type=x.device.type,
        rows=rows,
        out_features=out_features,
        in_features=x.shape[-1],
        x_dtype=dtype_name(x.dtype),
        device=fingerprint(x.device),
        **fields,
    )


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of a dtype without the prefix: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
