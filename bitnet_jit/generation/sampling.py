"""The choice of the next token from the logits: greedy, or a draw after temperature, top-k and top-p.

Draws use a separate generator: a seed gives the same tokens again, and torch's global random state stays untouched.
"""

import math
from dataclasses import dataclass

import torch

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import BitNetError, InvalidInput

MAX_SEED = 2**63 - 1
MAX_K = 2**31 - 1  # no vocabulary is larger


@dataclass(frozen=True)
class Sampling:
    """Options of sampling, checked by the constructor.

    Attributes:
        temperature: logits are divided by it; 0 always takes the likeliest token.
        top_k: only the k likeliest tokens can be drawn; None is no limit.
        top_p: only the likeliest tokens that together reach this probability can be drawn (nucleus sampling, arXiv
            1904.09751); None is no limit.
        seed: the same seed gives the same tokens; None draws anew each time.

    Raises:
        InvalidInput: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        temperature, top_p = as_real(self.temperature), as_real(self.top_p)
        if temperature is None or not 0 <= temperature < math.inf:
            raise InvalidInput(f"temperature: expected a finite number of at least 0, got {show(self.temperature)}")
        if self.top_p is not None and (top_p is None or not 0 < top_p <= 1):
            raise InvalidInput(f"top_p: expected a number above 0 and at most 1 or None, got {show(self.top_p)}")
        top_k = None if self.top_k is None else whole_number("top_k", self.top_k, 1, MAX_K, none=True)
        seed = None if self.seed is None else whole_number("seed", self.seed, 0, MAX_SEED, none=True)
        for name, value in {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}.items():
            object.__setattr__(self, name, value)  # Python's numbers in place of NumPy's


class Sampler:
    """Choice of tokens by the options, with the random state of one generation."""

    def __init__(self, options: Sampling) -> None:
        self.options = options
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose a token for each row: logits (B, vocab) float32 -> (B,) int64 on the same device.

        Raises:
            BitNetError: a logit is NaN or infinite.
        """
        if not bool(torch.isfinite(logits.amax())):
            raise BitNetError("the model computed logits that are NaN or infinite: its weights are damaged")
        if self.options.temperature == 0:
            return logits.argmax(-1)
        probabilities = kept_probabilities(logits.cpu().double(), self.options)
        return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0].to(logits.device)


def kept_probabilities(logits: torch.Tensor, options: Sampling) -> torch.Tensor:
    """Compute probabilities from logits (B, vocab), of the same shape; 0 for tokens that top-k or top-p rule out.

    >>> kept_probabilities(torch.tensor([[0.0, 1.0, 2.0]]), Sampling(temperature=1.0, top_k=2))
    tensor([[0.0000, 0.2689, 0.7311]])
    """
    # the largest logit becomes 0 first, so that a small temperature cannot overflow to infinity - infinity
    ordered, tokens = ((logits - logits.amax(-1, keepdim=True)) / options.temperature).sort(-1, descending=True)
    if options.top_k is not None:
        ordered[:, options.top_k :] = -math.inf
    probabilities = ordered.softmax(-1)
    if options.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < options.top_p, probabilities, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, tokens, probabilities)
