"""Torch ops `torch.ops.bitnet_jit.*`: importing this package registers them."""

from bitnet_jit.ops import input_grad as input_grad
from bitnet_jit.ops import linear as linear
from bitnet_jit.ops import norm as norm
from bitnet_jit.ops import norm_linear as norm_linear
from bitnet_jit.ops import training as training
from bitnet_jit.ops import weights as weights
from bitnet_jit.ops.library import eager as eager
