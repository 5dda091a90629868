"""`packed_embedding`: the rows of token ids in a packed ternary table, y = w_q[id] * w_scale, rounded to its dtype.

An id outside of the table gives a row of NaN, so that nothing is read beyond it.
"""

from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.embedding import IDS, example_ids
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import DTYPE, PACKED_OPTIONS, PER_ROW, ROWS, W_PACKED, W_SCALE

PACKED_EMBEDDING = define_by_kernels(
    OpSpec(
        "packed_embedding",
        (Tensor("ids", IDS, PER_ROW, synthetic=example_ids), W_PACKED, W_SCALE, *PACKED_OPTIONS, DTYPE),
        (Output("y", ROWS, "dtype"),),
        exact=always,
    )
)
packed_embedding = PACKED_EMBEDDING.eager
