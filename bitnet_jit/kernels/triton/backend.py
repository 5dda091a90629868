"""The record of the Triton backend."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.triton.layout import I2_CHUNKS, LAYOUTS
from bitnet_jit.kernels.triton.linear import table as linear
from bitnet_jit.kernels.triton.rowwise import norm_gradients, rows
from bitnet_jit.kernels.triton.weights import dequantize, quantize_weight

BACKEND = Backend(
    name="triton",
    kernels=(
        *linear.KERNELS,
        *rows.KERNELS,
        *norm_gradients.KERNELS,
        *quantize_weight.KERNELS,
        *dequantize.KERNELS,
    ),
    layouts=LAYOUTS,
    training_layout=I2_CHUNKS,
)
