"""Which problems code asks for, found out without computing anything: its ops see shapes, dtypes and devices only."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bitnet_jit.ops import linear, norm
from bitnet_jit.problem import Problem


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


class Recorder(TorchDispatchMode):
    """Counts the problems of our ops that run under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.problems: Counter[Problem] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "bitnet_jit" and (describe := DESCRIBE.get(function._opname)):
            self.problems[describe(*args)] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def recorded() -> Iterator[Counter[Problem]]:
    """Within the block nothing is computed, tensors that it makes have no values, and its problems are counted.

    >>> import bitnet_jit
    >>> layer = bitnet_jit.PackedBitLinear(64, 32)
    >>> with recorded() as problems:
    ...     y = layer(torch.empty(3, 64))
    >>> [(problem.op, problem.rows, count) for problem, count in problems.items()]
    [('bit_linear', 4, 1)]
    """
    recorder = Recorder()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), recorder:
        yield recorder.problems
