"""Quantizers of torch tensors outside the hot path: numbers in, codes and scales out. Kernels quantize activations."""

from bitnet_jit.quant.weight import dequantize_weight, expand_scale, quantize_weight

__all__ = ["dequantize_weight", "expand_scale", "quantize_weight"]
