"""Providers of ours: the whole layer as torch calls it, and the matmul kernel alone, on given codes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from benchmarks.harness.contender import Contender, Provider
from benchmarks.harness.work import Work
from benchmarks.providers.launches import Run, lay_out, matmul, packed_bytes
from benchmarks.providers.torch_linear import weight_copies
from bitnet_jit.ops import eager


def packed_copies(work: Work, format_name: str, copies: int) -> tuple[str, list[torch.Tensor]]:
    """Pack the weight on the device; return the layout's name, and copies of the weight in it."""
    layout, packed = lay_out(work.w_codes, format_name)
    return layout, weight_copies(packed, copies)


def build_layer(name: str, format_name: str, work: Work, copies: int, dtype: torch.dtype = torch.float32) -> Contender:
    """Build the op bit_linear as our modules call it, `dtype` in and out."""
    layout, weights = packed_copies(work, format_name, copies)
    x = torch.from_numpy(work.x).to(work.device, dtype)
    w_scale = torch.tensor(work.w_scale, device=work.device)
    bit_linear, last = eager("bit_linear"), x.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        weight = weights[number % copies]
        last = bit_linear(x, weight, w_scale, None, x.shape[-1], work.shape.out_features, layout, 0, "a8")

    return contender(name, run, lambda: last.float().cpu().numpy(), num_bytes(format_name, work), work)


def build_kernel(name: str, format_name: str, work: Work, copies: int) -> Contender:
    """Build the kernel that the dispatcher chooses for ternary_matmul, called without torch's dispatch."""
    layout, weights = packed_copies(work, format_name, copies)
    x_q = torch.from_numpy(work.codes[0]).to(work.device)
    acc = x_q.new_empty((work.rows, work.shape.out_features), dtype=torch.int32)
    run = matmul(x_q, layout, weights, acc)
    return contender(name, run, lambda: acc.cpu().numpy(), num_bytes(format_name, work), work)


def contender(name: str, run: Run, result: Callable[[], NDArray[Any]], num_bytes: int, work: Work) -> Contender:
    """Return a contender of the matmul that follows torch's number of threads, as our kernels do."""
    return Contender(name, run, result, num_bytes, work.num_ops, torch.set_num_threads)


def layer_provider(name: str, format_name: str) -> Provider:
    """Return the layer on a format; right to the last bit or refused."""
    build = partial(build_layer, name, format_name)
    return Provider(name, build, lambda work: work.y, 0, partial(num_bytes, format_name))


def kernel_provider(name: str, format_name: str) -> Provider:
    """Return the matmul kernel on a format; right to the last bit or refused."""
    build = partial(build_kernel, name, format_name)
    return Provider(name, build, lambda work: work.acc, 0, partial(num_bytes, format_name))


def num_bytes(format_name: str, work: Work) -> int:
    """Return the bytes of the packed weight, padding of its layout apart."""
    return packed_bytes(format_name, work.shape.out_features, work.shape.in_features)


PROVIDERS = (
    layer_provider("bitnet_jit", "i2"),
    layer_provider("bitnet_jit_t5", "t5"),
    kernel_provider("kernel", "i2"),
    kernel_provider("kernel_t5", "t5"),
)
