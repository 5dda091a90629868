"""Rules that end a text: at a token, or at a string in the text."""

from collections.abc import Iterable, Sequence

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer import TextStream, Tokenizer
from bitnet_jit.generation.unicode import well_formed

Stop = int | str | Iterable[int | str]


class StringSearch:
    """A search for strings in one text, token by token.

    Args:
        strings: at least one, none of them empty.
        stream: the text.
    """

    def __init__(self, strings: tuple[str, ...], stream: TextStream) -> None:
        self._strings, self._stream = strings, stream
        self._tail = ""
        self._reach = max(map(len, strings)) - 1

    def completes(self, token: int) -> bool:
        """Take note of the next token; return whether a string is complete with it."""
        self._tail += self._stream.push(token)
        if any(string in self._tail for string in self._strings):
            return True
        self._tail = self._tail[-self._reach :] if self._reach else ""
        return False


class StopRule:
    """The end of one text: a token that ends it, or a string in the text so far.

    Args:
        tokens: ids that end it.
        searches: for strings, in the text as it is read, and with its special tokens.
    """

    def __init__(self, tokens: frozenset[int], searches: Sequence[StringSearch]) -> None:
        self._tokens, self._searches = tokens, searches

    def ends_with(self, token: int) -> bool:
        """Take note of the next token; return whether the text ends with it."""
        # a list, so that no search misses a token
        return token in self._tokens or any([search.completes(token) for search in self._searches])


def stop_rules(
    stop: Stop,
    eos_ids: Sequence[int],
    tokenizer: Tokenizer | None,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
) -> list[StopRule]:
    """Return a rule for the continuation of each prompt.

    A string ends a text that contains it, with its special tokens or without. A string that is a special token ends
    the text at the id of this token, too. Lone surrogates in it count as U+FFFD.

    Raises:
        InvalidInput: an item is neither a token id below vocab_size nor a string of at least one character, or is a
            string where there is no tokenizer.
    """
    tokens, strings = parted(stop, vocab_size)
    if strings and tokenizer is None:
        raise InvalidInput(f"stop: the string {show(strings[0])} needs a tokenizer, and this model came without one")
    if tokenizer is None or not strings:
        return [StopRule(frozenset([*eos_ids, *tokens]), ()) for _ in prompts]
    ends = frozenset([*eos_ids, *tokens, *(number for string in strings for number in tokenizer.special_ids(string))])
    return [
        StopRule(ends, [StringSearch(strings, tokenizer.stream(prompt, special)) for special in (False, True)])
        for prompt in prompts
    ]


def parted(stop: Stop, vocab_size: int) -> tuple[list[int], tuple[str, ...]]:
    """Return the token ids and the strings; InvalidInput where an item is neither."""
    one = isinstance(stop, (str, bytes, bytearray)) or as_whole(stop) is not None or not isinstance(stop, Iterable)
    items = [stop] if one else list(stop)  # type: ignore[arg-type]
    tokens: list[int] = []
    strings: list[str] = []
    for item in items:
        if isinstance(item, str):
            strings.append(well_formed(item))
        elif (token := as_whole(item)) is None:
            raise InvalidInput(f"stop: expected token ids and strings, got {show(item)}")
        elif not 0 <= token < vocab_size:
            raise InvalidInput(f"stop: expected token ids from 0 to {vocab_size - 1}, got {show(item)}")
        else:
            tokens.append(token)
    if "" in strings:
        raise InvalidInput("stop: expected strings of at least one character, got ''")
    return tokens, tuple(strings)
