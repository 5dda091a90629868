"""Blocks that learn: a layer for each projection, its parameters named as Hugging Face names them.

The names are those of a checkpoint's tensors, so a trained network is saved without renaming, and read by `load`.
Under autocast the linear layers, attention and the head run in its dtype; the residual stream stays float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.attention import attend
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.rope import Rope, rotate
from bitnet_jit.nn.rms_norm import RMSNorm

Tables = tuple[torch.Tensor, torch.Tensor]  # cosines and sines of T positions, each (T, 1, D)
LinearClass = Callable[..., nn.Linear]
HOST: Any = {"device": "cpu", "dtype": torch.float32}  # of new parameters, whatever torch's defaults are


class TrainedAttention(nn.Module):
    """Grouped-query attention with layers for q, k and v, and the model's norms; its input is normalized.

    BitNet has a norm before `o_proj`, Qwen3 one of each head of queries and one of each head of keys.

    Args:
        config: the decoder's architecture.
        linear: the class of the layers.
    """

    def __init__(self, config: DecoderConfig, linear: LinearClass) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.attention_bias
        self.head_dim = config.head_dim
        self.q_proj = linear(hidden, config.q_features, bias=bias, **HOST)
        self.k_proj = linear(hidden, config.kv_features, bias=bias, **HOST)
        self.v_proj = linear(hidden, config.kv_features, bias=bias, **HOST)
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_dim, config.norm_eps, **HOST) if config.qk_norms else nn.Identity() for _ in range(2)
        )
        self.attn_sub_norm = RMSNorm(config.q_features, config.norm_eps, **HOST) if config.sub_norms else nn.Identity()
        self.o_proj = linear(config.q_features, hidden, bias=bias, **HOST)

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        """Mix the tokens of x (B, T, hidden) -> (B, T, hidden); queries and keys turn in the tables' float32."""
        query, keys, values = (
            layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, keys = rotate(self.q_norm(query), *tables), rotate(self.k_norm(keys), *tables)
        return self.project_out(attend(query.to(values.dtype), keys.to(values.dtype), values))

    def project_out(self, y: torch.Tensor) -> torch.Tensor:
        """Project the result of the heads, y (B, T, num_heads * head_dim) -> (B, T, hidden)."""
        projected: torch.Tensor = self.o_proj(self.attn_sub_norm(y))
        return projected


class TrainedFeedForward(nn.Module):
    """BitNet's relu(gate)^2 * up with a norm before `down_proj`, or Llama's silu(gate) * up; its input is normalized.

    Args:
        config: the decoder's architecture.
        linear: the class of the layers.

    Raises:
        InvalidInput: BitNet's, in float16, which ends at 65,504: a gate of 256 has a larger square.
    """

    def __init__(self, config: DecoderConfig, linear: LinearClass) -> None:
        super().__init__()
        hidden, middle, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.squares = config.activation == "relu2"
        self.gate_proj = linear(hidden, middle, bias=bias, **HOST)
        self.up_proj = linear(hidden, middle, bias=bias, **HOST)
        self.ffn_sub_norm = RMSNorm(middle, config.norm_eps, **HOST) if config.sub_norms else nn.Identity()
        self.down_proj = linear(middle, hidden, bias=bias, **HOST)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each token of x (B, T, hidden) -> (B, T, hidden)."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.squares and gate.dtype == torch.float16:
            raise InvalidInput("x: relu(gate)^2 overflows in torch.float16; train in torch.bfloat16 or torch.float32")
        gate = F.relu(gate).square() if self.squares else F.silu(gate)
        projected: torch.Tensor = self.down_proj(self.ffn_sub_norm(gate * up))
        return projected


class TrainedBlock(nn.Module):
    """A block with a norm before attention and one before feed-forward.

    Args:
        config: the decoder's architecture.
        linear: the class of the layers.
        dropout: share of the output of each branch that is left out, in training mode.
    """

    def __init__(self, config: DecoderConfig, linear: LinearClass, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        self.self_attn = TrainedAttention(config, linear)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        self.mlp = TrainedFeedForward(config, linear)

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        """Run the block on the residual stream x (B, T, hidden) -> the same shape."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), tables))
        y: torch.Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return y


class Backbone(nn.Module):
    """Token ids to the normalized output of the last block, over whole windows.

    Args:
        config: the decoder's architecture.
        linear: the class of the layers.
        dropout: share of the output of the embedding and of each branch that is left out, in training mode.
    """

    def __init__(self, config: DecoderConfig, linear: LinearClass, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, **HOST)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TrainedBlock(config, linear, dropout) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        cos, sin = Rope(config).tables(config.context_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Run the blocks: input_ids (B, T) -> (B, T, hidden)."""
        tokens = input_ids.shape[1]
        tables = self.get_buffer("cos")[:tokens], self.get_buffer("sin")[:tokens]
        x = self.dropout(self.embed_tokens(input_ids))
        for block in self.layers:
            x = block(x, tables)
        y: torch.Tensor = self.norm(x)
        return y
