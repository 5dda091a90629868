"""Speculative decoding: guesses of the next tokens, which one step of the model verifies together.

A guess is kept where the model chooses the same token, drawn ones included: a draw depends on its seed and position
alone (`batch_sampler.py`), and a token's logits are the same bits in a step of many tokens as in a step of one. So the
text is that of plain decoding, token for token; guesses change how many steps it takes.

    "ngram"    the tokens that followed the last ones where they stood before (prompt lookup decoding, as
               transformers and vLLM call it)
    a decoder  a smaller model of the same vocabulary continues the text greedily (arXiv 2211.17192)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.errors import InvalidInput

if TYPE_CHECKING:
    from bitnet_jit.generation.continuation import Text
    from bitnet_jit.generation.decoder import Decoder

MAX_DRAFT = 64  # tokens


@dataclass
class Speculation:
    """How tokens are guessed, and how often guesses were right.

    Args:
        draft: "ngram", or a decoder of the same vocabulary.
        max_tokens: guesses in a step at most, 1 to 64.

    Attributes:
        steps: steps of the model in which guesses were verified.
        drafted: guesses.
        accepted: guesses that were right.

    Raises:
        InvalidInput: an argument is neither.

    >>> import bitnet_jit
    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> decoder, speculation = bitnet_jit.load(embedded_model()), Speculation("ngram")
    >>> prompt = decoder.tokenizer.encode("the son of Jeroham, the son of Eliel, the son of Toah, ")
    >>> text = decoder.generate(prompt, max_new_tokens=16, speculate=speculation)
    >>> bytes(text.tolist()[-16:]) == bytes(decoder.generate(prompt, max_new_tokens=16).tolist()[-16:])
    True
    >>> 0 < speculation.accepted <= speculation.drafted
    True
    """

    draft: "Literal['ngram'] | Decoder"
    max_tokens: int = 8
    steps: int = field(default=0, init=False)
    drafted: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.draft != "ngram" and not hasattr(self.draft, "generate"):
            raise InvalidInput(f'speculate: expected "ngram" or a decoder, got {show(self.draft)}')
        self.max_tokens = whole_number("max_tokens", self.max_tokens, 1, MAX_DRAFT)

    def __str__(self) -> str:
        share = self.accepted / self.drafted if self.drafted else 0.0
        per_step = self.accepted / self.steps + 1 if self.steps else 1.0
        return f"{self.accepted} of {self.drafted} guesses accepted ({share:.0%}), {per_step:.2f} tokens per step"


Speculate = Speculation | Literal["ngram"] | None


class Drafter(Protocol):
    """Guesses the next tokens of texts."""

    def draft(self, texts: "Sequence[Text]", limits: Sequence[int]) -> list[list[int]]:
        """Return guesses of the tokens behind each text's last one, at most `limits` of them."""


class Speculator:
    """A drafter with its figures, for the texts of one call.

    Args:
        speculation: what was asked for; its figures are counted up.
        drafter: guesses.
    """

    def __init__(self, speculation: Speculation, drafter: Drafter) -> None:
        self._speculation, self._drafter = speculation, drafter

    def draft(self, texts: "Sequence[Text]") -> list[list[int]]:
        """Return the guesses for each text; none where penalties depend on the tokens that are guessed."""
        most = self._speculation.max_tokens
        limits = [0 if text.options.is_penalized else min(most, text.limit - len(text.tokens) - 1) for text in texts]
        return self._drafter.draft(texts, limits)

    def count(self, drafted: int, accepted: int) -> None:
        """Take note of the guesses of one text in a step."""
        self._speculation.steps += 1
        self._speculation.drafted += drafted
        self._speculation.accepted += accepted
