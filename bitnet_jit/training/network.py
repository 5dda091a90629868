"""A decoder that learns: BitNet's architecture with layers that train, its parameters named as Hugging Face names them.

The names are those of a checkpoint's tensors, so what is trained here is saved without renaming, and read by `load`.
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
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.rms_norm import RMSNorm

LinearClass = Callable[..., nn.Linear]
STD = 0.02  # of the weights in the beginning
HOST: Any = {"device": "cpu", "dtype": torch.float32}  # where and as what they begin, whatever torch's defaults are


class Attention(nn.Module):
    """Grouped-query attention over the whole of a window, with BitNet's norm before `o_proj`."""

    def __init__(self, config: DecoderConfig, linear: LinearClass) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.attention_bias
        self.head_dim = config.head_dim
        self.q_proj = linear(hidden, config.q_features, bias=bias, **HOST)
        self.k_proj = linear(hidden, config.kv_features, bias=bias, **HOST)
        self.v_proj = linear(hidden, config.kv_features, bias=bias, **HOST)
        self.attn_sub_norm = RMSNorm(config.q_features, config.norm_eps, **HOST) if config.sub_norms else nn.Identity()
        self.o_proj = linear(config.q_features, hidden, bias=bias, **HOST)

    def forward(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x (B, T, hidden), normalized -> (B, T, hidden)."""
        query, keys, values = (
            layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, keys = rotate(query, *tables), rotate(keys, *tables)  # in the tables' float32
        y = attend(query.to(values.dtype), keys.to(values.dtype).transpose(1, 2), values.transpose(1, 2))
        found: torch.Tensor = self.o_proj(self.attn_sub_norm(y))
        return found


class FeedForward(nn.Module):
    """BitNet's relu(gate)^2 * up with a norm before `down_proj`, or Llama's silu(gate) * up.

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
        """x (B, T, hidden), normalized -> (B, T, hidden)."""
        gate = self.gate_proj(x)
        if self.squares and gate.dtype == torch.float16:
            raise InvalidInput("x: relu(gate)^2 overflows in torch.float16; train in torch.bfloat16 or torch.float32")
        gate = F.relu(gate).square() if self.squares else F.silu(gate)
        found: torch.Tensor = self.down_proj(self.ffn_sub_norm(gate * self.up_proj(x)))
        return found


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: DecoderConfig, linear: LinearClass, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        self.self_attn = Attention(config, linear)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        self.mlp = FeedForward(config, linear)

    def forward(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x (B, T, hidden) -> the same shape."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), tables))
        y: torch.Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return y


class Backbone(nn.Module):
    """Token ids to the normalized output of the last block."""

    def __init__(self, config: DecoderConfig, linear: LinearClass, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, **HOST)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(config, linear, dropout) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, **HOST)
        cpu = torch.device("cpu")
        cos, sin = Rope(config).tables(0, config.context_length, cpu, torch.float32)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) -> (B, T, hidden)."""
        tokens = input_ids.shape[1]
        tables = self.get_buffer("cos")[:tokens], self.get_buffer("sin")[:tokens]
        x = self.dropout(self.embed_tokens(input_ids))
        for layer in self.layers:
            x = layer(x, tables)
        found: torch.Tensor = self.norm(x)
        return found


class TrainedDecoder(nn.Module):
    """A decoder to be trained.

    Args:
        config: its architecture; the output head is the embedding (`tied_embeddings`) or a dense layer.
        linear: the class of its linear layers: `BitLinear`, or nn.Linear to compare with.
        seed: of the first weights, which are the same for every class of layers.
        dropout: share of the embedding's and of every branch's output that is left out, in training mode.

    >>> from bitnet_jit.training.settings import TrainSettings
    >>> decoder = TrainedDecoder(TrainSettings(layers=1, hidden_size=64, intermediate_size=64, heads=2).decoder())
    >>> decoder(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 256])
    """

    def __init__(
        self, config: DecoderConfig, linear: LinearClass = BitLinear, seed: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config, linear, dropout)
        self.lm_head = None
        if not config.tied_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, **HOST)
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int) -> None:
        """Draw all matrices anew, on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator, **HOST) * STD)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The logits of the token behind each token: input_ids (B, T) int64 -> (B, T, vocab_size)."""
        head = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.model(input_ids), head)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy in nats of each token but the first: windows (B, T + 1) int64 -> ()."""
        logits = self(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
