"""One block of a decoder: attention and feed-forward, each normalized, quantized once, and run on shared codes.

q, k and v are one packed weight, gate and up another: their input is normalized and quantized by one kernel, and its
codes go through one matmul.
"""

import torch
from torch import nn

from bitnet_jit.models.attention import attend
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.models.rope import rotate
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm
from bitnet_jit.ops import eager

quantize_activation = eager("quantize_activation")
quantized_linear = eager("quantized_linear")
relu2_mul_norm_quantize = eager("relu2_mul_norm_quantize")
rms_norm_quantize = eager("rms_norm_quantize")
silu_mul_norm_quantize = eager("silu_mul_norm_quantize")

Codes = tuple[torch.Tensor, torch.Tensor]  # x_q int8 (..., K), x_scale float32 (...)


def run_codes(layer: PackedBitLinear, codes: Codes, dtype: torch.dtype) -> torch.Tensor:
    """A packed layer on an input that is quantized already: (..., N) of `dtype`."""
    parameters = layer._parameters  # nn.Module.__getattr__ costs 0.3 us a parameter
    y: torch.Tensor = quantized_linear(
        *codes,
        parameters["w_packed"],
        parameters["w_scale"],
        parameters["bias"],
        layer.in_features,
        layer.out_features,
        layer.layout,
        layer.group_size,
        dtype,
    )
    return y


def normalized_codes(norm: RMSNorm, x: torch.Tensor) -> Codes:
    """x (..., K), normalized and quantized in one pass."""
    codes: Codes = rms_norm_quantize(x, norm.weight, norm.eps)
    return codes


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; BitNet normalizes its result before `output`.

    Args:
        config: the decoder's architecture.
        norm: of the block's input.
        qkv: rows of q, k and v one below the other.
        sub_norm: BitNet's norm before `output`, or None.
        output: back to the residual stream.
    """

    def __init__(
        self,
        config: DecoderConfig,
        norm: RMSNorm,
        qkv: PackedBitLinear,
        sub_norm: RMSNorm | None,
        output: PackedBitLinear,
    ) -> None:
        super().__init__()
        self.norm, self.qkv, self.sub_norm, self.output = norm, qkv, sub_norm, output
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.values_from = config.num_heads + config.num_kv_heads

    def forward(
        self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], cache: KVCache, layer: int
    ) -> torch.Tensor:
        """x (B, T, hidden) -> what to add to it; `tables` are the rotary ones of these T positions."""
        heads = self.inward(x).view(*x.shape[:-1], -1, self.head_dim)  # queries, keys, values
        turned = rotate(heads[..., : self.values_from, :], *tables)
        keys, values = turned[..., self.num_heads :, :], heads[..., self.values_from :, :]
        return self.outward(attend(turned[..., : self.num_heads, :], *cache.put(layer, keys, values)))

    def inward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, hidden) -> queries, keys and values of all heads, side by side."""
        return run_codes(self.qkv, normalized_codes(self.norm, x), x.dtype)

    def outward(self, y: torch.Tensor) -> torch.Tensor:
        """What the heads found, y (B, T, num_heads * head_dim) -> (B, T, hidden)."""
        codes = quantize_activation(y) if self.sub_norm is None else normalized_codes(self.sub_norm, y)
        return run_codes(self.output, codes, y.dtype)


class FeedForward(nn.Module):
    """Gated feed-forward: BitNet's relu(gate)^2 * up with a norm behind it, or Llama's silu(gate) * up.

    Args:
        norm: of the input.
        gate_up: rows of gate and up one below the other.
        sub_norm: BitNet's norm before `down`; None makes it Llama's.
        down: back to the residual stream.
    """

    def __init__(
        self, norm: RMSNorm, gate_up: PackedBitLinear, sub_norm: RMSNorm | None, down: PackedBitLinear
    ) -> None:
        super().__init__()
        self.norm, self.gate_up, self.sub_norm, self.down = norm, gate_up, sub_norm, down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, hidden) -> what to add to it."""
        gate, up = run_codes(self.gate_up, normalized_codes(self.norm, x), x.dtype).chunk(2, -1)
        if self.sub_norm is None:
            codes = silu_mul_norm_quantize(gate, up, None, 0.0)
        else:
            codes = relu2_mul_norm_quantize(gate, up, self.sub_norm.weight, self.sub_norm.eps)
        return run_codes(self.down, codes, x.dtype)


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, attention: Attention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(
        self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], cache: KVCache, layer: int
    ) -> torch.Tensor:
        """x (B, T, hidden) -> the same shape."""
        x = x + self.attention(x, tables, cache, layer)
        y: torch.Tensor = x + self.feed_forward(x)
        return y
