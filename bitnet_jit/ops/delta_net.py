"""`delta_net`: convolves queries, keys and values, and runs the gated delta rule over states of sequences.

A call has tokens of any mix of sequences; reference/delta_net.py says what it means. What a sequence's tokens get, and
what its slot holds behind them, is the same to the bit however the sequence is cut into calls.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.shapes import Dims, Plus, Seen, certainly
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import OUT_ROWS, PER_ROW
from bitnet_jit.problem import MAX_TAPS, Problem


class MixedShape(Dims):
    """The shape of [q | k | v] side by side: (..., 2 KV D + H V), where H is a multiple of KV."""

    def __init__(self) -> None:
        super().__init__(..., "K")

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        if not super().fits(shape, seen):
            return False
        heads, dk, dv = (seen.sizes[name] for name in "HDV")
        width = shape[-1] - heads * dv
        key_heads = width // (2 * dk)
        seen.sizes["KV"], seen.sizes["N"], seen.sizes["G"] = key_heads, heads * dv, 2 * heads
        whole = not (certainly(key_heads < 1) or certainly(width % (2 * dk) != 0))
        return whole and not certainly(heads % key_heads != 0)

    def words(self, seen: Seen) -> str:
        heads, dk, dv = (seen.sizes[name] for name in "HDV")
        return f"(..., KV * {2 * dk} + {heads * dv}) with KV a divisor of {heads}"


def example_sizes(problem: Problem) -> dict[str, int]:
    """Return the sizes of a call with one sequence."""
    heads = max(1, problem.heads)
    return {"V": problem.out_features // heads, "G": 2 * heads, "J": MAX_TAPS - 1, "R": 1, "S": 1}


def example_positions(operands: Operands) -> torch.Tensor:
    """Return positions from 0 on, so that every call with such arguments gives the same."""
    return torch.arange(operands.rows, dtype=torch.int32, device="cpu").reshape(operands.leading)


def example_starts(operands: Operands) -> torch.Tensor:
    """Return where the one sequence begins and ends."""
    return torch.tensor((0, operands.rows), dtype=torch.int32, device="cpu")


def example_slots(operands: Operands) -> torch.Tensor:
    """Return the slot of the one sequence."""
    return torch.zeros(1, dtype=torch.int32, device="cpu")


def example_decay(operands: Operands) -> torch.Tensor:
    """Return decays as models have them: -exp(A_log) with exp(A_log) up to 16."""
    return -torch.linspace(0.01, 16, operands.problem.heads, dtype=torch.float32, device="cpu")


def multiply_adds(problem: Problem) -> int:
    """Return the operations on states: decay, two products with them, and the update."""
    return 7 * problem.rows * problem.out_features * problem.head_dim


INTS, FLOAT = (torch.int32,), (torch.float32,)
PER_HEAD = Dims("H")
DELTA_NET = define_by_kernels(
    OpSpec(
        "delta_net",
        (
            Tensor("mixed", FLOATS, MixedShape()),
            Tensor("beta_alpha", FLOAT, Dims(..., "G")),
            Tensor("conv_weight", FLOAT, Dims("K", Plus("J", 1))),
            Tensor("decay", FLOAT, PER_HEAD, synthetic=example_decay),
            Tensor("dt_bias", FLOAT, PER_HEAD),
            Tensor("history", FLOATS, Dims("S", "J", "K"), like="mixed", written="a"),
            Tensor("states", FLOAT, Dims("S", "H", "D", "V"), written="b"),
            Tensor("positions", INTS, PER_ROW, synthetic=example_positions),
            Tensor("starts", INTS, Dims(Plus("R", 1)), synthetic=example_starts),
            Tensor("slots", INTS, Dims("R"), synthetic=example_slots),
        ),
        (Output("y", OUT_ROWS, "mixed"),),
        leads="states",
        operations=multiply_adds,
        varying=(..., "R"),
        examples=example_sizes,
    )
)
delta_net = DELTA_NET.eager
