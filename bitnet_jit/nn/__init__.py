"""Layers: `BitLinear` trains, `PackedBitLinear` runs, `RMSNorm`; `convert`, `pack` and `add_lora` take whole models."""

from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.convert import convert, pack
from bitnet_jit.nn.lora import add_lora, lora_state_dict
from bitnet_jit.nn.lora_linear import LoraLinear
from bitnet_jit.nn.lora_merge import merge_lora
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.nn.sharding import packed_parameters
from bitnet_jit.nn.warmup import set_quantization_strength

__all__ = [
    "BitLinear",
    "LoraLinear",
    "PackedBitLinear",
    "RMSNorm",
    "add_lora",
    "convert",
    "lora_state_dict",
    "merge_lora",
    "pack",
    "packed_parameters",
    "set_quantization_strength",
]
