"""When a text has ended: at a token, or at a string in what was written."""

from collections.abc import Iterable, Sequence

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer import TextStream, Tokenizer
from bitnet_jit.generation.unicode import well_formed

Stop = int | str | Iterable[int | str]


class StringSearch:
    """Looks for strings in one text that is being written.

    Args:
        strings: at least one, none of them empty.
        stream: the text.
    """

    def __init__(self, strings: tuple[str, ...], stream: TextStream) -> None:
        self._strings, self._stream = strings, stream
        self._tail = ""
        self._reach = max(map(len, strings)) - 1

    def found_with(self, token: int) -> bool:
        """Take note of the next token; true where a string is complete with it."""
        self._tail += self._stream.push(token)
        if any(string in self._tail for string in self._strings):
            return True
        self._tail = self._tail[-self._reach :] if self._reach else ""
        return False


class StopRule:
    """Tells when one text has ended: a token that ends it, or a string in what was written so far.

    Args:
        tokens: ids that end it.
        searches: for strings, in the text as it is read, and with its special tokens.
    """

    def __init__(self, tokens: frozenset[int], searches: Sequence[StringSearch]) -> None:
        self._tokens, self._searches = tokens, searches

    def ends_with(self, token: int) -> bool:
        """Take note of the next token; true where the text ends with it."""
        # a list, so that no search misses a token
        return token in self._tokens or any([search.found_with(token) for search in self._searches])


def stop_rules(
    stop: Stop,
    eos_ids: Sequence[int],
    tokenizer: Tokenizer | None,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
) -> list[StopRule]:
    """Return a rule for the continuation of each prompt.

    A string ends a text where it is part of what was written, special tokens included or left out. One that is a
    special token ends it at this token's id, too. Lone surrogates in it count as U+FFFD.

    Raises:
        InvalidInput: something is neither a token id below vocab_size nor a string of at least one character, or is a
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
    """Return the token ids and the strings; InvalidInput where something is neither."""
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
