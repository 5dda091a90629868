"""`TrainedDecoder`: a decoder that learns, with its first weights, its head and its loss."""

import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.trainable import HOST, Backbone, LinearClass
from bitnet_jit.nn.bit_linear import BitLinear

STD = 0.02  # of the weights in the beginning


class TrainedDecoder(nn.Module):
    """A decoder to be trained.

    Args:
        config: its architecture; the output head is the embedding (`tied_embeddings`) or a dense layer.
        linear: the class of its linear layers: `BitLinear`, or nn.Linear to compare with.
        seed: of the first weights, which are the same for every class of layers.
        dropout: share of the output of the embedding and of each branch that is left out, in training mode.

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
        """Compute the logits of the token behind each token: input_ids (B, T) int64 -> (B, T, vocab_size)."""
        head = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.model(input_ids), head)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Compute the mean cross entropy in nats of each token but the first: windows (B, T + 1) int64 -> ()."""
        logits = self(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
