"""Which problems code asks for, found out without computing anything: on "meta" ops see shapes and dtypes only."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from bitnet_jit.ops import linear, norm
from bitnet_jit.ops.library import WATCHER
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.device import find_gpu, fingerprint


def codes_problem(x_q: Any, x_scale: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Problem:
    """Of quantized_linear."""
    out_features, layout, group_size, y_dtype = options
    find = linear.QUANTIZED_LINEAR.problem
    return find(x_q, w_packed, w_scale, bias, out_features, layout, group_size, "a8", y_dtype)


def layer_problem(x: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Problem:
    """Of bit_linear."""
    out_features, layout, group_size, activation = options
    find = linear.BIT_LINEAR.problem
    return find(x, w_packed, w_scale, bias, out_features, layout, group_size, activation, x.dtype)


def sums_problem(x_q: Any, w_packed: Any, out_features: int, layout: str) -> Problem:
    """Of ternary_matmul."""
    find = linear.TERNARY_MATMUL.problem
    return find(x_q, w_packed, None, None, out_features, layout, 0, "a8", torch.int32)


DESCRIBE: dict[str, Callable[..., Problem]] = {  # an op's arguments -> its problem
    "bit_linear": layer_problem,
    "quantized_linear": codes_problem,
    "ternary_matmul": sums_problem,
    "quantize_activation": lambda x: norm.QUANTIZE_ACTIVATION.problem(x, None),
    "rms_norm": lambda x, weight, eps: norm.RMS_NORM.problem(x, weight),
    "rms_norm_quantize": lambda x, weight, eps: norm.RMS_NORM_QUANTIZE.problem(x, weight),
    "relu2_mul_norm_quantize": lambda gate, up, weight, eps: norm.RELU2_MUL_NORM_QUANTIZE.problem(gate, weight),
    "silu_mul_norm_quantize": lambda gate, up, weight, eps: norm.SILU_MUL_NORM_QUANTIZE.problem(gate, weight),
}


@contextmanager
def recorded(device: torch.device) -> Iterator[Counter[Problem]]:
    """Within the block, the problems of ops whose tensors are on "meta" are counted, as if they were on that device.

    >>> import bitnet_jit
    >>> with recorded(torch.device("cpu")) as problems:
    ...     codes, scale = torch.ops.bitnet_jit.quantize_activation(torch.empty(3, 64, device="meta"))
    >>> [(problem.op, problem.device_type, problem.rows, count) for problem, count in problems.items()]
    [('quantize_activation', 'cpu', 4, 1)]
    """
    problems: Counter[Problem] = Counter()
    place = {"device_type": device.type, "device": fingerprint(device), "gpu": find_gpu(device)}

    def count(name: str, args: tuple[Any, ...]) -> None:
        if describe := DESCRIBE.get(name):
            problems[replace(describe(*args), **place)] += 1  # type: ignore[arg-type]

    token = WATCHER.set(count)
    try:
        with torch.no_grad():
            yield problems
    finally:
        WATCHER.reset(token)
