"""Quantizers of torch tensors outside the hot path, from numbers to codes and scales. Kernels quantize activations."""

from bitnet_jit.quant.head import dequantize_head, quantize_head
from bitnet_jit.quant.weight import dequantize_weight, expand_scale, quantize_weight

__all__ = ["dequantize_head", "dequantize_weight", "expand_scale", "quantize_head", "quantize_weight"]
