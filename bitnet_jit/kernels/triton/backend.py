"""The record of this backend."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.triton import dequantize, linear, norm_gradients, quantize_weight, rows
from bitnet_jit.kernels.triton.layout import I2_CHUNKS, LAYOUTS

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
