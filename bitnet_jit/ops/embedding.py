"""`embedding`: the rows of token ids in a table of floats, or of int8 with a scale per row.

An id outside of the table gives a row of NaN, so that nothing is read beyond it.
"""

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.head import RowScale
from bitnet_jit.ops.shapes import Dims
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import DTYPE, PER_ROW, ROWS, WEIGHT_SHAPE

IDS = (torch.int64, torch.int32)


def example_ids(operands: Operands) -> torch.Tensor:
    """Return ids that are spread over the table."""
    ids = torch.arange(operands.rows, dtype=torch.int64, device="cpu") * 7919 % operands.problem.out_features
    return ids.reshape(operands.leading).to(getattr(torch, operands.problem.x_dtype))


EMBEDDING = define_by_kernels(
    OpSpec(
        "embedding",
        (
            Tensor("ids", IDS, PER_ROW, synthetic=example_ids),
            Tensor("table", (*FLOATS, torch.int8), WEIGHT_SHAPE, field="w_dtype"),
            RowScale("table_scale", (torch.float32,), Dims("N"), optional=True, matrix="table"),
            DTYPE,
        ),
        (Output("y", ROWS, "dtype"),),
        exact=always,
    )
)
embedding = EMBEDDING.eager
