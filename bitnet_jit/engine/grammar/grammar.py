"""`Grammar`: what a text must be, JSON by a schema. The library llguidance tells which tokens may come next.

Its masks have a bit per token. A step makes one for each text that has a grammar, while a GPU computes the logits, and
the sampler applies it there. A text ends where its grammar lets nothing follow, or at the model's end token, which the
mask has wherever the text is whole.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import torch

from bitnet_jit.arguments import show
from bitnet_jit.engine.grammar.schema import HOW, schema_text
from bitnet_jit.engine.grammar.tokens import library, make_tokenizer, short, width
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.masks import mask_words

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

MAX_KEPT = 64  # compiled grammars of a model
USED_UP = "too many states"  # llguidance's words
LIMITS = {  # of llguidance: its work for one mask takes some milliseconds at most, that for a grammar some seconds
    "max_items_in_row": 2_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}


@dataclass(frozen=True)
class Grammar:
    """What a text must be.

    Attributes:
        schema: a JSON schema, as JSON.

    >>> Grammar.json_schema({"type": "integer"})
    Grammar(schema='{"type": "integer"}')
    """

    schema: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Self:
        """Return the grammar of JSON texts that a schema takes; InvalidInput where no text of it ends."""
        return cls(schema_text(schema))

    @classmethod
    def json_object(cls) -> Self:
        """Return the grammar of JSON objects of any kind."""
        return cls('{"type": "object"}')


class Source:
    """A grammar that was compiled, from which matchers are copied.

    All copies share the states that llguidance comes to know, which makes later texts fast. There may be so many: where
    they are used up, by whichever text, the grammar is compiled anew.

    Args:
        grammar: the grammar.
        tokenizer: of llguidance.
    """

    def __init__(self, grammar: Grammar, tokenizer: Any) -> None:
        self._grammar, self._tokenizer, self._lock = grammar, tokenizer, Lock()
        self.matcher = compile_grammar(grammar, tokenizer)

    def renewed(self, used_up: Any) -> Any:
        """Return a matcher to copy that is not this one."""
        with self._lock:
            if self.matcher is used_up:
                self.matcher = compile_grammar(self._grammar, self._tokenizer)
            return self.matcher


class Matcher:
    """A text within its grammar: takes its tokens, tells which may come next.

    Args:
        source: the grammar.
        vocab_size: of the model.
        ends: the model's end tokens; without one the text ends as soon as it is whole.
    """

    def __init__(self, source: Source, vocab_size: int, ends: Sequence[int]) -> None:
        self._source, self._vocab_size, self._ends = source, vocab_size, frozenset(ends)
        self._taken: list[int] = []
        self._original = source.matcher
        self._matcher = self._original.deep_copy()

    @property
    def error(self) -> str:
        """Return why no more tokens can be told, "" where they can."""
        return f"grammar: {short(self._matcher.get_error())}" if self._matcher.is_error() else ""

    def take(self, token: int) -> bool:
        """Take the next token of the text; return whether the text ends with it."""
        self._taken.append(token)
        self._matcher.consume_token(token)
        if self._matcher.is_error() and not self._renew():  # counts as stopped there; the next mask tells it
            return False
        return bool(self._matcher.is_stopped() or (not self._ends and self._matcher.is_accepting()))

    def possible(self, guesses: Sequence[int]) -> list[int]:
        """Return the guesses up to the first that cannot come, or that ends the text."""
        end = next((place for place, token in enumerate(guesses) if token in self._ends), len(guesses))
        possible: int = self._matcher.validate_tokens(list(guesses[:end]))
        return list(guesses[:possible])

    def masks(self, guesses: Sequence[int] = ()) -> torch.Tensor:
        """Return which tokens may come next, and behind each guess: (1 + guesses, words) int32 on the CPU.

        No token may come where there is an error.
        """
        masks = self._made_masks(guesses)
        return self._made_masks(guesses) if self._matcher.is_error() and self._renew() else masks

    def _made_masks(self, guesses: Sequence[int]) -> torch.Tensor:
        """Make the masks with the present matcher."""
        words = mask_words(width(self._vocab_size, self._ends))
        masks = torch.zeros(1 + len(guesses), words, dtype=torch.int32, device="cpu")
        taken = 0
        try:
            for place, mask in enumerate(masks):
                if not self._matcher.is_error():
                    self._matcher.unsafe_compute_mask_ptr(mask.data_ptr(), 4 * words)
                if self._matcher.is_error():
                    mask.zero_()
                elif place < len(guesses):
                    self._matcher.consume_token(guesses[place])
                    taken += 1
        finally:  # whatever happens, as the step may be run again
            if taken and not self._matcher.is_error():
                self._matcher.rollback(taken)
        return masks[:, : mask_words(self._vocab_size)]

    def _renew(self) -> bool:
        """Take a new matcher to this place of the text, where the states of all have been used up; return whether."""
        if USED_UP not in self._matcher.get_error():
            return False
        self._original = self._source.renewed(self._original)
        self._matcher = self._original.deep_copy()
        self._matcher.consume_tokens(self._taken)
        return not self._matcher.is_error()


class Grammars:
    """The grammars of one model, compiled; for any number of threads.

    Args:
        decoder: the model.
    """

    def __init__(self, decoder: "Decoder") -> None:
        self.decoder = decoder
        self._lock, self._tokenizer_lock = Lock(), Lock()  # the first is held for an instant, by event loops too
        self._tokenizer: Any = None
        self._compiled: OrderedDict[Grammar, Source] = OrderedDict()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning of a text. The first one of a grammar takes milliseconds up to seconds.

        Raises:
            InvalidInput: the grammar is none or too complex, the model has no tokenizer, or llguidance is missing.
        """
        if not isinstance(grammar, Grammar):
            raise InvalidInput(f"grammar: expected a Grammar, got {show(grammar)}")
        with self._lock:
            compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = Source(grammar, self._known_tokenizer())
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > MAX_KEPT:
                self._compiled.popitem(last=False)
        config = self.decoder.config
        return Matcher(compiled, config.vocab_size, config.eos_ids)

    def _known_tokenizer(self) -> Any:
        """Return the model's tokens, gathered once."""
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(self.decoder)
            return self._tokenizer


def compile_grammar(grammar: Grammar, tokenizer: Any) -> Any:
    """Return the matcher of a grammar that others are copied from; InvalidInput where there is none."""
    matchers, limits = library().LLMatcher, library().LLParserLimits(verbose_errors=False, **LIMITS)
    try:
        text = matchers.grammar_from_json_schema(grammar.schema, overrides=HOW)
    except ValueError as error:
        raise InvalidInput(f"schema: {short(str(error))}") from None
    matcher = matchers(tokenizer, text, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds what the constructor leaves for later
    if matcher.is_error():
        raise InvalidInput(f"schema: {short(matcher.get_error())}")
    return matcher
