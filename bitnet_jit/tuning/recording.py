"""Record the problems that code poses without computing anything: on "meta" ops see shapes and dtypes only."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from bitnet_jit.devices.kinds import find_gpu, fingerprint
from bitnet_jit.ops.library import WATCHER
from bitnet_jit.ops.op import OPS
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec
from bitnet_jit.problem import Problem


@contextmanager
def recorded(device: torch.device) -> Iterator[Counter[Problem]]:
    """Count the problems of ops within the block whose tensors are on "meta", as if they were on that device.

    >>> import bitnet_jit
    >>> with recorded(torch.device("cpu")) as problems:
    ...     codes, scale = torch.ops.bitnet_jit.quantize_activation(torch.empty(3, 64, device="meta"))
    >>> [(problem.op, problem.device_type, problem.rows, count) for problem, count in problems.items()]
    [('quantize_activation', 'cpu', 4, 1)]
    """
    problems: Counter[Problem] = Counter()
    place: dict[str, Any] = {"device_type": device.type, "device": fingerprint(device), "gpu": find_gpu(device)}

    def count(spec: OpSpec, seen: Seen) -> None:
        if OPS[spec.name].by_kernels:  # others call those
            problems[replace(spec.problem(seen), **place)] += 1

    token = WATCHER.set(count)
    try:
        with torch.no_grad():
            yield problems
    finally:
        WATCHER.reset(token)
