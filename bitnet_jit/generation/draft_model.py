"""Guesses by a smaller model, which continues texts greedily in a paged cache of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from bitnet_jit.problem import pages_for
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

if TYPE_CHECKING:
    from bitnet_jit.generation.continuation import Text
    from bitnet_jit.generation.decoder import Decoder


@dataclass
class Draft:
    """What the draft model has seen of one text.

    Attributes:
        sequence: its keys and values.
        tokens: the tokens whose keys and values these are.
    """

    sequence: PagedSequence
    tokens: list[int] = field(default_factory=list)


class ModelDrafter:
    """Guesses the tokens of texts by a decoder of the same vocabulary.

    Args:
        decoder: the draft model; texts that outgrow its context are not guessed any more.
        lengths: tokens of each text at most, its prompt included.

    Raises:
        InvalidInput: memory for its keys and values does not suffice.
    """

    def __init__(self, decoder: "Decoder", lengths: Sequence[int]) -> None:
        self._context = decoder.config.context_length
        self._runner = Runner(decoder, sum(pages_for(min(self._context, length)) for length in lengths))
        self._drafts: WeakKeyDictionary[Text, Draft] = WeakKeyDictionary()

    def draft(self, texts: "Sequence[Text]", limits: Sequence[int]) -> list[list[int]]:
        """Return guesses for each text; see `speculation.Drafter`."""
        guesses: list[list[int]] = [[] for _ in texts]
        limits = [min(limit, self._context - text.length) for text, limit in zip(texts, limits, strict=True)]
        chunks = {place: self._missing(texts[place]) for place, limit in enumerate(limits) if limit > 0}
        while chunks:
            drafts = [self._drafts[texts[place]] for place in chunks]
            logits = self._runner.step(
                [Chunk(draft.sequence, tokens) for draft, tokens in zip(drafts, chunks.values(), strict=True)]
            )
            for draft, tokens, place, guess in zip(
                drafts, chunks.values(), chunks, logits.argmax(-1).tolist(), strict=True
            ):
                draft.tokens += tokens
                guesses[place].append(guess)
            chunks = {place: guesses[place][-1:] for place in chunks if len(guesses[place]) < limits[place]}
        return guesses

    def _missing(self, text: "Text") -> list[int]:
        """Forget wrong guesses of a text, and return the tokens that the draft model has not seen, one at least."""
        draft = self._drafts.get(text)
        if draft is None:
            draft = self._drafts[text] = Draft(self._runner.cache.new_sequence())
        ids = text.ids_from(0)
        pairs = zip(draft.tokens, ids[:-1], strict=False)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._runner.cache.truncate(draft.sequence, kept)
        del draft.tokens[kept:]
        return ids[kept:]
