"""Continuing prompts token by token: prefill, then one step a token, until every text has ended."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.sampling import Sampler, Sampling, is_whole
from bitnet_jit.models.tokenizer import TextStream, Tokenizer
from bitnet_jit.models.tokens import TokenIds, as_batch

if TYPE_CHECKING:
    from bitnet_jit.models.decoder import Decoder

DEFAULT_NEW_TOKENS = 128

Stop = int | str | Sequence[int | str]


class StopRule:
    """Tells when one text has ended: a token that ends it, or a string in what was written so far."""

    def __init__(self, tokens: frozenset[int], strings: tuple[str, ...], text: TextStream | None) -> None:
        self._tokens, self._strings, self._stream = tokens, strings, text
        self._tail = ""
        self._reach = max(map(len, strings), default=1) - 1

    def ends_with(self, token: int) -> bool:
        """Take note of the next token; true where the text ends with it."""
        if token in self._tokens:
            return True
        if self._stream is None:
            return False
        self._tail += self._stream.push(token)
        if any(string in self._tail for string in self._strings):
            return True
        self._tail = self._tail[-self._reach :] if self._reach else ""
        return False


def stop_rules(stop: Stop, eos_ids: Sequence[int], tokenizer: Tokenizer | None, number: int) -> list[StopRule]:
    """A rule for each of `number` texts.

    Raises:
        InvalidInput: something is neither a token id nor a string, or is a string where there is no tokenizer.
    """
    found = tuple(stop) if isinstance(stop, (list, tuple, set, frozenset)) else (stop,)
    strings = tuple(item for item in found if isinstance(item, str))
    tokens = [item for item in found if not isinstance(item, str)]
    for item in tokens:
        if not is_whole(item):
            raise InvalidInput(f"stop: expected token ids and strings, got {item!r}")
    if "" in strings:
        raise InvalidInput("stop: expected strings of at least one character, got ''")
    if strings and tokenizer is None:
        raise InvalidInput(f"stop: the string {strings[0]!r} needs a tokenizer, and this model came without one")
    ends = frozenset([*eos_ids, *tokens])
    return [StopRule(ends, strings, tokenizer.stream() if strings and tokenizer else None) for _ in range(number)]


def steps(decoder: "Decoder", batch: torch.Tensor, max_new_tokens: int, sampler: Sampler) -> Iterator[torch.Tensor]:
    """The next token of each prompt, (B,) int64, again and again; only the last position's logits are computed."""
    cache = decoder.new_cache(batch.shape[0], batch.shape[1] + max_new_tokens)
    for _ in range(max_new_tokens):
        tokens = sampler.choose(decoder.logits(decoder.hidden(batch, cache)[:, -1]))
        yield tokens
        batch = tokens[:, None]


def checked(decoder: "Decoder", input_ids: TokenIds, max_new_tokens: int | None) -> tuple[torch.Tensor, int]:
    """The prompts as int64 (B, T), and how many tokens to add; together they fit the context, else InvalidInput."""
    context = decoder.config.context_length
    batch = as_batch(input_ids, decoder.config.vocab_size, context, decoder.device)
    room = context - batch.shape[1]
    if max_new_tokens is None and room:
        return batch, min(DEFAULT_NEW_TOKENS, room)
    if not is_whole(max_new_tokens) or not 1 <= max_new_tokens <= room:
        raise InvalidInput(
            f"max_new_tokens: expected 1 to {room}, as a prompt of {batch.shape[1]} tokens leaves of the model's "
            f"context of {context}, got {max_new_tokens!r}"
        )
    return batch, max_new_tokens


def generate(
    decoder: "Decoder", input_ids: TokenIds, max_new_tokens: int | None, sampling: Sampling, stop: Stop
) -> torch.Tensor:
    """`Decoder.generate` with its options gathered."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    rules = stop_rules(stop, decoder.config.eos_ids, decoder.tokenizer, len(batch))
    ended = torch.zeros(len(batch), dtype=torch.bool, device="cpu")
    columns = [batch]
    for tokens in steps(decoder, batch, new_tokens, Sampler(sampling)):
        tokens = torch.where(ended.to(tokens.device), columns[-1][:, -1], tokens)
        columns.append(tokens[:, None])
        for row, token in enumerate(tokens.tolist()):
            ended[row] = bool(ended[row]) or rules[row].ends_with(token)
        if bool(ended.all()):
            break
    ids = torch.cat(columns, 1)
    return ids[0] if is_flat(input_ids) else ids


def is_flat(input_ids: TokenIds) -> bool:
    """Whether one prompt was given without a batch dimension."""
    return input_ids.dim() == 1 if isinstance(input_ids, torch.Tensor) else not isinstance(input_ids[0], (list, tuple))


def stream(
    decoder: "Decoder", input_ids: TokenIds, max_new_tokens: int | None, sampling: Sampling, stop: Stop
) -> Iterator[int]:
    """`Decoder.stream` with its options gathered; they are checked at the call, not at the first token."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    if len(batch) != 1:
        raise InvalidInput(f"input_ids: stream takes one prompt, got a batch of {len(batch)}; use generate")
    (rule,) = stop_rules(stop, decoder.config.eos_ids, decoder.tokenizer, 1)

    def tokens() -> Iterator[int]:
        for chosen in steps(decoder, batch, new_tokens, Sampler(sampling)):
            token = int(chosen)
            yield token
            if rule.ends_with(token):
                return

    return tokens()
