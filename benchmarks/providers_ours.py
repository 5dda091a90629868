"""Our own contenders: the whole layer as torch calls it, and the matmul kernel alone, on codes that are there."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bitnet_jit.devices.workspace import Workspace
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls, eager
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import Problem
from providers_torch import weight_copies
from work import Contender, Provider, Work


def packed_copies(work: Work, format_name: str, copies: int) -> tuple[str, list[torch.Tensor]]:
    """The layout's name, and copies of the weight in it, packed on the device."""
    layout = registry.preferred_layout(format_name, torch.device(work.device).type)
    packed = layout.from_canonical(FORMATS[format_name].pack(work.w_codes), *work.w_codes.shape)
    return layout.name, weight_copies(packed, copies)


def build_layer(name: str, format_name: str, work: Work, copies: int, dtype: torch.dtype = torch.float32) -> Contender:
    """The op bit_linear as our modules call it, `dtype` in and out."""
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
    """The kernel that the dispatcher chooses for ternary_matmul, called without torch's dispatch."""
    layout, weights = packed_copies(work, format_name, copies)
    x_q = torch.from_numpy(work.codes[0]).to(work.device)
    problem = calls.describe(
        "ternary_matmul",
        x_q,
        work.shape.out_features,
        layout=layout,
        activation="a8",
        y_dtype="int32",
    )
    acc = x_q.new_empty((work.rows, work.shape.out_features), dtype=torch.int32)
    run = launcher(problem, x_q, weights, acc)
    return contender(name, run, lambda: acc.cpu().numpy(), num_bytes(format_name, work), work)


def launcher(
    problem: Problem, x_q: torch.Tensor, weights: list[torch.Tensor], acc: torch.Tensor
) -> Callable[[int], Any]:
    """Runs the chosen kernel on the weight copy of a number; a Numba kernel by its addresses, nothing around it."""
    choice = calls.DISPATCHER.choose(problem)
    if not choice.kernel.name.startswith("numba."):
        return on_tensors(problem, x_q, weights, acc)
    from bitnet_jit.ops.numba_tensors import FORK

    bound, rows = choice.kernel.bind(problem, choice.config), len(x_q)
    entry, sizes, workspace = bound.entry(rows), bound.numbers(rows), Workspace()
    workspace.take(bound.workspace_bytes(rows, 1))

    def run(number: int) -> None:
        x, w, y = x_q.data_ptr(), weights[number % len(weights)].data_ptr(), acc.data_ptr()
        entry(None, FORK.address, torch.get_num_threads(), x, 0, w, 0, 0, y, *sizes, workspace.address)

    return run


def on_tensors(
    problem: Problem, x_q: torch.Tensor, weights: list[torch.Tensor], acc: torch.Tensor
) -> Callable[[int], Any]:
    """Runs the op's call; the sums are put in `acc` on the weight copy 0 alone, which is what is looked at."""
    call = calls.make_call(problem, x_q)

    def run(number: int) -> None:
        found = call(x_q, weights[number % len(weights)])
        if number == 0:
            acc.copy_(found)

    return run


def contender(name: str, run, result, num_bytes: int, work: Work) -> Contender:
    """Our kernels follow torch's number of threads."""
    return Contender(name, run, result, num_bytes, work.num_ops, torch.set_num_threads)


def layer_provider(name: str, format_name: str) -> Provider:
    """The layer on a format; right to the last bit or refused."""
    build = partial(build_layer, name, format_name)
    return Provider(name, build, lambda work: work.y, 0, partial(num_bytes, format_name))


def kernel_provider(name: str, format_name: str) -> Provider:
    """The matmul kernel on a format; right to the last bit or refused."""
    build = partial(build_kernel, name, format_name)
    return Provider(name, build, lambda work: work.acc, 0, partial(num_bytes, format_name))


def num_bytes(format_name: str, work: Work) -> int:
    """Bytes of a packed weight, padding of its layout apart."""
    return FORMATS[format_name].num_bytes(work.shape.out_features, work.shape.in_features)


PROVIDERS = (
    layer_provider("bitnet_jit", "i2"),
    layer_provider("bitnet_jit_t5", "t5"),
    kernel_provider("kernel", "i2"),
    kernel_provider("kernel_t5", "t5"),
)
