"""Which problems code asks for, found out without computing anything: on "meta" ops see shapes and dtypes only."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from bitnet_jit.devices.fingerprint import find_gpu, fingerprint
from bitnet_jit.ops import linear, norm
from bitnet_jit.ops.library import WATCHER
from bitnet_jit.problem import Problem

DESCRIBE: dict[str, Callable[..., Problem]] = {  # an op's arguments -> its problem
    "bit_linear": linear.BIT_LINEAR.problem,
    "quantized_linear": linear.QUANTIZED_LINEAR.problem,
    "ternary_matmul": linear.TERNARY_MATMUL.problem,
    "quantize_activation": norm.QUANTIZE_ACTIVATION.problem,
    "rms_norm": norm.RMS_NORM.problem,
    "rms_norm_quantize": norm.RMS_NORM_QUANTIZE.problem,
    "relu2_mul_norm_quantize": norm.RELU2_MUL_NORM_QUANTIZE.problem,
    "silu_mul_norm_quantize": norm.SILU_MUL_NORM_QUANTIZE.problem,
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
