"""Torch tensors to the addresses that Numba kernels take: allocate the output, take scratch memory, launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import guards

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.numba.threads.openmp import Fork
from bitnet_jit.ops.calls import NO_MEMORY, strides
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.threads import THREADS
from bitnet_jit.runtime.workspace import Workspace

FORK = Fork()
WORKSPACE = Workspace()
# (shape, strides, dtype) -> a tensor; as Inductor's code allocates, in half the time of new_empty
empty_strided: Any = guards._empty_strided_cpu  # type: ignore[attr-defined]


def contiguous(tensor: Any) -> Any:
    """The tensor (or None), copied only if it is not contiguous."""
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def addresses_of(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Return where tensors begin. Raises InvalidInput where one has no memory."""
    addresses = tuple(tensor.data_ptr() for tensor in tensors)
    if 0 in addresses:
        raise InvalidInput(NO_MEMORY)
    return addresses


def bind_bit_linear(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., torch.Tensor]:
    """bit_linear(x, w_packed, w_scale, bias). Every tenth of a microsecond counts here."""
    rows, y_shape = shape[:-1].numel(), (*shape[:-1], problem.out_features)
    y_strides, y_dtype = strides(y_shape), getattr(torch, problem.y_dtype)
    if not rows:
        return lambda x, *others: x.new_empty(y_shape, dtype=y_dtype)
    entry, num_bytes, sizes = bound.entry(rows), bound.workspace_bytes(rows, 1), bound.numbers(rows)

    absent = (problem.op != "quantized_linear") + (not problem.scale) + (not problem.bias)

    def call(x, w_packed, w_scale, bias, x_scale=None):
        if not (x.is_contiguous() and w_packed.is_contiguous()):
            x, w_packed = x.contiguous(), w_packed.contiguous()
        addresses = (
            x.data_ptr(),
            0 if x_scale is None else (x_scale := contiguous(x_scale)).data_ptr(),
            w_packed.data_ptr(),
            0 if w_scale is None else (w_scale := contiguous(w_scale)).data_ptr(),
            0 if bias is None else (bias := contiguous(bias)).data_ptr(),
        )
        if addresses.count(0) != absent:
            raise InvalidInput(NO_MEMORY)
        y = empty_strided(y_shape, y_strides, y_dtype)
        entry(None, FORK.address, THREADS.get(), *addresses, y.data_ptr(), *sizes, WORKSPACE.take(num_bytes))
        return y

    return call


def bind_quantized_linear(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., torch.Tensor]:
    """quantized_linear(x_q, x_scale, w_packed, w_scale, bias)."""
    call = bind_bit_linear(bound, problem, shape)
    return lambda x_q, x_scale, w_packed, w_scale, bias: call(x_q, w_packed, w_scale, bias, x_scale)


def bind_ternary_matmul(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., torch.Tensor]:
    """ternary_matmul(x_q, w_packed)."""
    call = bind_bit_linear(bound, problem, shape)
    return lambda x_q, w_packed: call(x_q, w_packed, None, None)


def bind_rows(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., Any]:
    """Row-wise ops: (x), (x, weight, eps) or (gate, up, weight, eps) -> y, or codes and scales."""
    rows, features, entry, max_threads = shape[:-1].numel(), shape[-1], bound.entry(0), bound.max_threads
    quantizes, y_shape, scale_shape = problem.op != "rms_norm", tuple(shape), tuple(shape[:-1])
    y_strides, scale_strides, y_dtype = strides(y_shape), strides(scale_shape), getattr(torch, problem.y_dtype)
    absent = ("_mul_" not in problem.op) + (not problem.bias)

    def run(x, up, weight, eps):
        x, up, weight = contiguous(x), contiguous(up), contiguous(weight)
        y = empty_strided(y_shape, y_strides, y_dtype)
        scale = empty_strided(scale_shape, scale_strides, torch.float32) if quantizes else None
        if rows:
            threads = min(THREADS.get(), max_threads)
            addresses = (
                x.data_ptr(),
                0 if up is None else up.data_ptr(),
                0 if weight is None else weight.data_ptr(),
            )
            if addresses.count(0) != absent:
                raise InvalidInput(NO_MEMORY)
            entry(
                None,
                FORK.address,
                threads,
                *addresses,
                eps,
                y.data_ptr(),
                0 if scale is None else scale.data_ptr(),
                rows,
                features,
                WORKSPACE.take(bound.workspace_bytes(rows, threads)),
            )
        return y if scale is None else (y, scale)

    if problem.op == "quantize_activation":
        return lambda x: run(x, None, None, 0.0)
    if problem.op in ("relu2_mul_norm_quantize", "silu_mul_norm_quantize"):
        return run
    return lambda x, weight, eps: run(x, None, weight, eps)


def bind_norm_gradients(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., Any]:
    """rms_norm_gradients(dy, x, weight, eps) -> dx, dw."""
    rows, features = shape[:-1].numel(), shape[-1]

    def call(dy, x, weight, eps):
        dy, x, weight = contiguous(dy), contiguous(x), contiguous(weight)
        dx = x.new_empty(*shape)
        if not rows:
            return dx, torch.zeros_like(weight)
        dw, threads = torch.empty_like(weight), min(THREADS.get(), bound.max_threads)
        addresses = addresses_of(dy, x, weight)
        memory, entry = WORKSPACE.take(bound.workspace_bytes(rows, threads)), bound.entry(rows)
        entry(None, FORK.address, threads, *addresses, eps, dx.data_ptr(), dw.data_ptr(), rows, features, memory)
        return dx, dw

    return call


def bind_quantize_weight(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., Any]:
    """quantize_weight(w) -> w_packed, w_scale."""
    packed_shape = registry.get_layout(problem.layout).shape(*shape)

    def call(w):
        w = contiguous(w)
        packed, scale = w.new_empty(packed_shape, dtype=torch.uint8), w.new_empty((), dtype=torch.float32)
        run_weight(bound, w, packed, scale)
        return packed, scale

    return call


class DequantizeWeight:
    """dequantize_weight(w_packed, w_scale) -> w, a new one; `into` writes over one that is there."""

    def __init__(self, bound: Any, problem: Problem, shape: torch.Size) -> None:
        self._bound, self._dtype = bound, getattr(torch, problem.y_dtype)
        self._shape = problem.out_features, problem.in_features

    def __call__(self, w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        return self.into(w_packed.new_empty(self._shape, dtype=self._dtype), w_packed, w_scale)

    def into(self, w: torch.Tensor, w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        """w itself, written."""
        run_weight(self._bound, w, contiguous(w_packed), contiguous(w_scale))
        return w


def bind_dequantize_activation(bound: Any, problem: Problem, shape: torch.Size) -> Callable[..., torch.Tensor]:
    """dequantize_activation(x_q, x_scale) -> x."""
    rows, dtype = shape[:-1].numel(), getattr(torch, problem.y_dtype)

    def call(x_q, x_scale):
        x = x_q.new_empty(shape, dtype=dtype)
        if rows:
            x_q, x_scale, threads = contiguous(x_q), contiguous(x_scale), min(THREADS.get(), bound.max_threads)
            addresses, memory = addresses_of(x_q, x_scale, x), bound.workspace_bytes(rows, threads)
            bound.entry(rows)(None, FORK.address, threads, *addresses, rows, shape[-1], WORKSPACE.take(memory))
        return x

    return call


def run_weight(bound: Any, w: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> None:
    """One kernel between a float weight and a packed one."""
    threads, memory = min(THREADS.get(), bound.max_threads), WORKSPACE.take(bound.workspace_bytes(0, 1))
    addresses = addresses_of(w, packed, scale)
    bound.entry(0)(None, FORK.address, threads, *addresses, *bound.numbers(0), memory)


BINDERS: dict[str, Callable[[Any, Problem, torch.Size], Callable[..., Any]]] = {
    "bit_linear": bind_bit_linear,
    "quantized_linear": bind_quantized_linear,
    "ternary_matmul": bind_ternary_matmul,
    "quantize_activation": bind_rows,
    "rms_norm": bind_rows,
    "rms_norm_gradients": bind_norm_gradients,
    "rms_norm_quantize": bind_rows,
    "relu2_mul_norm_quantize": bind_rows,
    "silu_mul_norm_quantize": bind_rows,
    "quantize_weight": bind_quantize_weight,
    "dequantize_weight": DequantizeWeight,
    "dequantize_activation": bind_dequantize_activation,
}
