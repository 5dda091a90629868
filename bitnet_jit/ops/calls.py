"""From a problem and a shape to a callable on tensors, made once and kept: what stands between an op and a launch."""

from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from typing import Any

import torch

from bitnet_jit.devices.fingerprint import find_gpu, fingerprint
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.problem import MAX_IN_FEATURES, Problem, rows_bucket
from bitnet_jit.runtime.dispatcher import Choice, Dispatcher
from bitnet_jit.runtime.settings import read_settings

Call = Callable[..., Any]

ARGUMENTS = {  # of each op's calls, in their order
    "bit_linear": ("x", "w_packed", "w_scale", "bias"),
    "quantized_linear": ("x_q", "x_scale", "w_packed", "w_scale", "bias"),
    "ternary_matmul": ("x_q", "w_packed"),
    "bit_linear_input_grad": ("dy", "w_packed", "w_scale"),
    "quantize_activation": ("x",),
    "rms_norm": ("x", "weight", "eps"),
    "rms_norm_gradients": ("dy", "x", "weight", "eps"),
    "rms_norm_quantize": ("x", "weight", "eps"),
    "relu2_mul_norm_quantize": ("gate", "up", "weight", "eps"),
    "silu_mul_norm_quantize": ("gate", "up", "weight", "eps"),
    "quantize_weight": ("weight",),
    "dequantize_weight": ("w_packed", "w_scale"),
    "dequantize_activation": ("x_q", "x_scale"),
}
OF_WEIGHTS = ("quantize_weight", "dequantize_weight")  # ops without rows of activations
NO_MEMORY = "a tensor has no memory: its data_ptr() is 0; its storage has been freed, or torch never made any"
DISPATCHER = Dispatcher()
MAX_CALLS = 4096  # kept an op: shapes may vary without end
Calls = dict[tuple[Any, ...], Call]
KEPT: list[Calls] = []  # of all ops


def bind_torch(run: Call, problem: Problem, shape: torch.Size, device: torch.device) -> Call:
    """A torch kernel as a call: it computes on rows, the call keeps the leading dimensions."""
    if problem.op in OF_WEIGHTS:
        return run
    leading = shape[:-1]

    def call(x: torch.Tensor, *others: Any) -> Any:
        rows = [a.reshape(-1, shape[-1]) if isinstance(a, torch.Tensor) and a.shape == shape else a for a in others]
        if problem.op in ("quantized_linear", "dequantize_activation"):
            rows[0] = rows[0].reshape(-1)  # x_scale (...)
        result = run(x.reshape(leading.numel(), shape[-1]), *rows)
        if isinstance(result, tuple):
            first, second = result  # codes and a scale for each row; of a norm's gradients, dx and dw
            return first.reshape(shape), second if problem.op == "rms_norm_gradients" else second.reshape(leading)
        return result.reshape(*leading, result.shape[-1])

    return call


def bind_numba(bound: Any, problem: Problem, shape: torch.Size, device: torch.device) -> Call:
    """A Numba kernel as a call; Numba is imported with the first one."""
    from bitnet_jit.ops import numba_tensors

    return numba_tensors.BINDERS[problem.op](bound, problem, shape)


def bind_triton(bound: Any, problem: Problem, shape: torch.Size, device: torch.device) -> Call:
    """A Triton kernel as a call; Triton is imported with the first one."""
    from bitnet_jit.ops import triton_tensors

    return triton_tensors.bind(bound, problem, shape, device)


Binder = Callable[[Any, Problem, torch.Size, torch.device], Call]
BINDERS: dict[str, Binder] = {"torch": bind_torch, "numba": bind_numba, "triton": bind_triton}


def make_call(problem: Problem, x: torch.Tensor) -> Call:
    """The call for a problem and tensors like x: the dispatcher's choice, bound to its backend's way with tensors."""
    choice = DISPATCHER.choose(problem)
    own = choice.tuned is not None and choice.tuned.origin != "shipped"
    if not own and read_settings().autotune and not captured(x.device):
        choice = tuned_now(problem, x.device)
    return as_call(choice.kernel, choice.bound, problem, x.shape, x.device)


def as_call(kernel: Kernel, bound: Any, problem: Problem, shape: torch.Size, device: torch.device) -> Call:
    """A bound kernel as a call, by its backend's way with tensors."""
    return BINDERS[kernel.backend](bound, problem, shape, device)


def on(device: torch.device) -> Any:
    """A context in which a device is the current one; the CPU always is."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, in which nothing can be timed."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def tuned_now(problem: Problem, device: torch.device) -> Choice:
    """The choice for a problem, tuned and kept if that is possible (BITNET_JIT_AUTOTUNE=1)."""
    from bitnet_jit.tuning.tune import tune

    tuned = tune(problem, device=device)
    if tuned is not None:
        DISPATCHER.cache.store(problem, tuned)
        DISPATCHER.forget(problem)
    return DISPATCHER.choose(problem)


def new_calls() -> Calls:
    """Where an op keeps its calls, by all that their kernels rely on."""
    KEPT.append({})
    return KEPT[-1]


def forget() -> None:
    """Choose anew from now on: what has been tuned meanwhile is found at the next call of each kind."""
    for calls in KEPT:
        calls.clear()
    DISPATCHER.forget()


def keep(calls: Calls, key: tuple[Any, ...], call: Call) -> Call:
    """Remember a call; after very many shapes, forget the others."""
    if len(calls) >= MAX_CALLS:
        calls.clear()
    calls[key] = call
    return call


def describe(op: str, x: torch.Tensor, out_features: int, **fields: Any) -> Problem:
    """The problem of one call; `fields` are those of Problem that the op decides."""
    numbers = {"in_features": x.shape[-1], "group_size": 0} | fields
    in_features = int(numbers["in_features"])  # NumPy's are no ints
    group_size = int(min(numbers["group_size"], MAX_IN_FEATURES))  # no input is outside of such a group
    fields |= {"in_features": in_features, "group_size": group_size}
    return Problem(
        op=op,
        device_type=x.device.type,
        rows=rows_bucket(x.shape[:-1].numel()),
        out_features=int(out_features),
        x_dtype=dtype_name(x.dtype),
        device=fingerprint(x.device),
        gpu=find_gpu(x.device),
        **fields,
    )


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor of that shape.

    >>> strides((2, 3, 4)), strides((2, 0, 4))
    ((12, 4, 1), (4, 4, 1))
    """
    return tuple(prod(max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape)))


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of a dtype without the prefix: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
