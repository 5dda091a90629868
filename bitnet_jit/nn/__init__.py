"""Layers: `BitLinear` trains, `PackedBitLinear` runs, `RMSNorm`; `convert` and `pack` take whole models there."""

from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.convert import convert, pack
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.nn.warmup import set_quantization_strength

__all__ = ["BitLinear", "PackedBitLinear", "RMSNorm", "convert", "pack", "set_quantization_strength"]
