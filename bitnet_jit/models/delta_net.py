"""`PackedDeltaNet`: Qwen3.5's gated DeltaNet with packed layers, in the place of attention (arXiv 2412.06464).

[mixed | z] = projection(norm(x))       ternary: queries, keys and values side by side, and the output's gate
gates       = normalized x * gates.T    floats: how much is written, how much is forgotten
y           = heads of `ops/delta_net.py`, each normalized, times silu(z)
output(y)                               ternary, back to the residual stream
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from bitnet_jit.models.attention import KVStore
from bitnet_jit.models.packed import Stream, add_normalized, rows_of
from bitnet_jit.nn.rotation import rotation_of
from bitnet_jit.ops.hadamard import silu_mul_hadamard
from bitnet_jit.ops.head import head_logits
from bitnet_jit.ops.linear import bit_linear
from bitnet_jit.ops.norm import rms_norm, silu_mul_norm

if TYPE_CHECKING:
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm

FLOAT32 = ("conv", "decay", "dt_bias")  # parameters that keep their dtype


class PackedDeltaNet(nn.Module):
    """A gated DeltaNet.

    Args:
        norm: of the block's input.
        projection: rows of queries, keys and values, then those of the gate z.
        gates: (2 * value_heads, hidden) floats: rows of b, then of a.
        conv: (C, taps) float32.
        decay: (value_heads,) float32, -exp(A_log).
        dt_bias: (value_heads,) float32.
        head_norm: of each head's output.
        output: back to the residual stream.
    """

    gates: nn.Parameter
    conv: nn.Parameter
    decay: nn.Parameter
    dt_bias: nn.Parameter

    quantizes_for_layers = True  # adapters beside the layers would be passed by: see `bitnet_jit.nn.lora`

    def __init__(
        self,
        norm: "RMSNorm",
        projection: "PackedBitLinear",
        gates: torch.Tensor,
        conv: torch.Tensor,
        decay: torch.Tensor,
        dt_bias: torch.Tensor,
        head_norm: "RMSNorm",
        output: "PackedBitLinear",
    ) -> None:
        super().__init__()
        self.norm, self.projection, self.head_norm, self.output = norm, projection, head_norm, output
        for name, weight in {"gates": gates, "conv": conv, "decay": decay, "dt_bias": dt_bias}.items():
            self.register_parameter(name, nn.Parameter(weight, requires_grad=False))

    def forward(self, stream: Stream, store: KVStore, layer: int, wanted: torch.Tensor | None = None) -> Stream:
        """Mix the tokens of a stream (T, hidden) with the states of their sequences; return wanted rows."""
        x, normalized = add_normalized(stream, self.norm)
        mixed, z = self.projection(normalized).tensor_split([len(self.conv)], -1)
        y = store.recur(layer, mixed, head_logits(normalized, self.gates, None), self.conv, self.decay, self.dt_bias)
        if wanted is not None:
            x, y, z = rows_of(x, wanted), rows_of(y, wanted), rows_of(z, wanted)
        return x, self.project_out(y, z)

    def project_out(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Normalize the heads of y (T, value_features), gate them by z, and project them -> (T, hidden)."""
        heads = rms_norm(y.unflatten(-1, (-1, self.head_norm.hidden_size)), self.head_norm.weight, self.head_norm.eps)
        if (rotation := rotation_of(self.output)) is None:
            gated = silu_mul_norm(z, heads.flatten(-2), None, 0.0)
        else:
            gated = silu_mul_hadamard(z, heads.flatten(-2), rotation.signs, rotation.block)
        projected: torch.Tensor = bit_linear(gated, *self.output.operands(), self.output.activation)
        return projected

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Convert as `.to()` does, but for what stays float32."""
        kept = {name: self.get_parameter(name).detach() for name in FLOAT32}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            parameter = self.get_parameter(name)
            if parameter.dtype != before.dtype:
                parameter.data = before.to(parameter.device)
        return self
