"""The arguments that several ops share, as records."""

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.ops.arguments import Dtype, Epsilon, LayoutName, Tensor, Whole, Word
from bitnet_jit.ops.shapes import Dims, PackedShape, ScaleShape
from bitnet_jit.problem import ACTIVATIONS

ROWS, OUT_ROWS, PER_ROW, PER_FEATURE = Dims(..., "K"), Dims(..., "N"), Dims(...), Dims("K")
WEIGHT_SHAPE, PACKED_SHAPE, SCALE_SHAPE, NUMBER = Dims("N", "K"), PackedShape(), ScaleShape(), Dims()

X = Tensor("x", FLOATS, ROWS)
DELTA = Tensor("delta", FLOATS, ROWS, like="x")
X_Q = Tensor("x_q", (torch.int8,), ROWS)
X_SCALE = Tensor("x_scale", (torch.float32,), PER_ROW)
GATE, UP = Tensor("gate", FLOATS, ROWS), Tensor("up", FLOATS, ROWS, like="gate")
WEIGHT = Tensor("weight", FLOATS, WEIGHT_SHAPE)
W_PACKED = Tensor("w_packed", (torch.uint8,), PACKED_SHAPE)
W_SCALE = Tensor("w_scale", (torch.float32,), SCALE_SHAPE)
BIAS = Tensor("bias", FLOATS, Dims("N"), optional=True, field="bias")
NORM_WEIGHT = Tensor("weight", FLOATS, PER_FEATURE, field="bias")
INNER_NORM_WEIGHT = Tensor("weight", FLOATS, PER_FEATURE, field="w_dtype")  # beside the bias of a layer
OPTIONAL_INNER_NORM_WEIGHT = Tensor("weight", FLOATS, PER_FEATURE, optional=True, field="w_dtype")
OPTIONAL_NORM_WEIGHT = Tensor("weight", FLOATS, PER_FEATURE, optional=True, field="bias")

EPS = Epsilon("eps")
LAYOUT = LayoutName("layout")
ACTIVATION = Word("activation", ACTIVATIONS, by_groups=("a8g",))
DTYPE = Dtype("dtype")
SIZES = (Whole("in_features", 1, "K"), Whole("out_features", 1, "N"))
PACKED_OPTIONS = (*SIZES, LAYOUT, Whole("group_size"))
LINEAR = (W_PACKED, W_SCALE, BIAS, *PACKED_OPTIONS)
