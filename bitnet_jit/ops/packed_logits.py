"""`packed_logits`: an output head of ternary codes, whose logits are float32 whatever the dtype of hidden states.

    logits = bit_linear(x, ...) with activation="a16", not rounded to x's dtype

A kernel takes x of 16 bits as it is; where there is none, x is widened. It runs where no gradient is wanted.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.calls import kernel_call_or
from bitnet_jit.ops.linear import BIT_LINEAR, multiply_adds
from bitnet_jit.ops.op import define
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import LINEAR, OUT_ROWS, X


def compose(values: Sequence[Any], seen: Seen) -> Call:
    """Return what runs such arguments on x in float32: a call, found once."""
    x, *layer = values
    product = BIT_LINEAR.find(x.new_empty(x.shape, dtype=torch.float32), *layer, "a16")
    return lambda x, *layer: product(x.float(), *layer)


def steps(x: Any, *layer: Any) -> torch.Tensor:
    """Compute by the ops that it consists of."""
    logits: torch.Tensor = BIT_LINEAR.torch(x.float(), *layer, "a16")
    return logits


SPEC = OpSpec(
    "packed_logits",
    (X, *LINEAR),
    (Output("y", OUT_ROWS, torch.float32),),
    activation="a16",
    operations=multiply_adds,
)
PACKED_LOGITS = define(SPEC, kernel_call_or(compose, SPEC), steps=steps)
packed_logits = PACKED_LOGITS.eager
