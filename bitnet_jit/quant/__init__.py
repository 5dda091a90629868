"""Quantizers of torch tensors outside the hot path, from numbers to codes and scales. Kernels quantize activations."""

from bitnet_jit.quant.weight import dequantize_weight, expand_scale, quantize_weight

__all__ = ["dequantize_weight", "expand_scale", "quantize_weight"]
