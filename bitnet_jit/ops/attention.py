"""`paged_attention`: rotates queries and keys, writes keys and values into the pages of a cache, and attends.

A call has tokens of any mix of sequences; reference/attention.py says what it means. What a token gets depends on
its query, its keys and values, and its position alone, to the bit, whatever else is in the call. Pages of int8 have
scales beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.shapes import Dims, Plus, Seen, certainly
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import OUT_ROWS, PER_ROW
from bitnet_jit.problem import PAGE, Problem, pages_for

CONTEXT = 512  # tokens before those of a call, in calls that are timed


class KeysShape(Dims):
    """The shape of pages of keys: (P, KV, D, PAGE), whose heads are split in halves."""

    def __init__(self) -> None:
        super().__init__("P", "KV", "D", PAGE)

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return super().fits(shape, seen) and not certainly(shape[2] % 2 != 0)

    def words(self, seen: Seen) -> str:
        return f"{super().words(seen)}, D even"


class QkvShape(Dims):
    """The shape of queries, keys and values side by side: (..., (H + 2 KV) D), where H is a multiple of KV."""

    def __init__(self) -> None:
        super().__init__(..., "K")

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        if not super().fits(shape, seen):
            return False
        kv_heads, head_dim = seen.sizes["KV"], seen.sizes["D"]
        groups = shape[-1] // (kv_heads * head_dim) - 2
        seen.sizes["H"], seen.sizes["N"] = groups * kv_heads, groups * kv_heads * head_dim
        return not (certainly(groups < 1) or certainly(shape[-1] % (kv_heads * head_dim) != 0))

    def words(self, seen: Seen) -> str:
        kv_heads, head_dim = seen.sizes["KV"], seen.sizes["D"]
        return f"(..., (H + {2 * kv_heads}) * {head_dim}) with H a multiple of {kv_heads}"


@dataclass(frozen=True)
class CacheScale(Tensor):
    """The scales of pages, which pages of int8 have and no others."""

    def dtype_in(self, problem: Problem) -> str:
        """Return the name of its dtype in calls that pose a problem; "" where it is absent."""
        return "float32" if problem.cache_dtype == "int8" else ""

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it fits, and is there where the pages, which were checked before, need it."""
        keys = seen.values["keys"]
        if keys.dtype == torch.int8 and value is None:
            raise InvalidInput(f"{self.name}: expected float32 {self.shape.words(seen)} beside pages of int8, got None")
        if keys.dtype != torch.int8 and value is not None:
            raise InvalidInput(f"{self.name}: expected None beside pages of {keys.dtype}, got {value.dtype}")
        super().check(value, seen)


def example_sizes(problem: Problem) -> dict[str, int]:
    """Return the sizes of a call with one sequence, some of whose tokens are in the cache already."""
    pages = pages_for(CONTEXT + problem.rows)
    return {"P": pages, "C": CONTEXT + problem.rows, "R": 1, "M": pages}


def example_positions(operands: Operands) -> torch.Tensor:
    """Return the positions behind those that are in the cache."""
    return torch.arange(CONTEXT, CONTEXT + operands.rows, dtype=torch.int32, device="cpu").reshape(operands.leading)


def example_starts(operands: Operands) -> torch.Tensor:
    """Return where the one sequence begins and ends."""
    return torch.tensor((0, operands.rows), dtype=torch.int32, device="cpu")


def example_tables(operands: Operands) -> torch.Tensor:
    """Return the pages of the one sequence: all, the last one first."""
    pages = example_sizes(operands.problem)["P"]
    return torch.arange(pages - 1, -1, -1, dtype=torch.int32, device="cpu").reshape(1, pages)


def multiply_adds(problem: Problem) -> int:
    """Return the operations of scores and weighted sums."""
    return 4 * problem.rows * problem.out_features * (CONTEXT + problem.rows // 2)


INTS, FLOAT = (torch.int32,), (torch.float32,)
CACHES = (*FLOATS, torch.int8)
SCALES = Dims("P", "KV", PAGE)
PAGED_ATTENTION = define_by_kernels(
    OpSpec(
        "paged_attention",
        (
            Tensor("qkv", FLOATS, QkvShape()),
            Tensor("keys", CACHES, KeysShape(), field="cache_dtype", written="a"),
            Tensor("values", CACHES, Dims("P", "KV", PAGE, "D"), like="keys", field="cache_dtype", written="b"),
            Tensor("rotary", FLOAT, Dims("C", "D")),
            Tensor("positions", INTS, PER_ROW, synthetic=example_positions),
            Tensor("starts", INTS, Dims(Plus("R", 1)), synthetic=example_starts),
            Tensor("tables", INTS, Dims("R", "M"), synthetic=example_tables),
            CacheScale("key_scale", FLOAT, SCALES, optional=True, written="c"),
            CacheScale("value_scale", FLOAT, SCALES, optional=True, written="d"),
        ),
        (Output("y", OUT_ROWS, "qkv"),),
        leads="keys",
        operations=multiply_adds,
        varying=(..., "R", "M"),
        examples=example_sizes,
    )
)
paged_attention = PAGED_ATTENTION.eager
