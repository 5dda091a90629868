"""`add_rms_norm_head_logits`: the output head behind the last residual sum and norm of a decoder.

    logits = head_logits(y, head, head_scale) of the y of add_rms_norm(x, delta, weight, eps)

The sum and y are rounded to x's dtype. These run where no gradient is wanted.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.calls import kernel_call_or
from bitnet_jit.ops.head import HEAD, HEAD_LOGITS, HEAD_SCALE
from bitnet_jit.ops.linear import multiply_adds
from bitnet_jit.ops.norm import ADD_RMS_NORM
from bitnet_jit.ops.op import define
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import DELTA, EPS, NORM_WEIGHT, OUT_ROWS, X


def compose(values: Sequence[Any], seen: Seen) -> Call:
    """Return what runs such arguments in two steps: two calls, found once."""
    x, delta, weight, eps, *head = values
    norm, product = ADD_RMS_NORM.find(x, delta, weight, eps), HEAD_LOGITS.find(x, *head)
    return lambda x, delta, weight, eps, *head: product(norm(x, delta, weight, eps)[1], *head)


def steps(x: Any, delta: Any, weight: Any, eps: Any, *head: Any) -> torch.Tensor:
    """Compute by the ops that it consists of."""
    _, y = ADD_RMS_NORM.torch(x, delta, weight, eps)
    logits: torch.Tensor = HEAD_LOGITS.torch(y, *head)
    return logits


SPEC = OpSpec(
    "add_rms_norm_head_logits",
    (X, DELTA, NORM_WEIGHT, EPS, HEAD, HEAD_SCALE),
    (Output("logits", OUT_ROWS, torch.float32),),
    operations=multiply_adds,
)
ADD_RMS_NORM_HEAD_LOGITS = define(SPEC, kernel_call_or(compose, SPEC), steps=steps)
add_rms_norm_head_logits = ADD_RMS_NORM_HEAD_LOGITS.eager
