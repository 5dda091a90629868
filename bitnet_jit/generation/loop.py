"""The loop of generation: prefill, then one step per token, until every text has ended."""

from collections.abc import Iterator, Sequence

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import BitNetError, InvalidInput
from bitnet_jit.generation.batch_sampler import BatchSampler, Choice
from bitnet_jit.generation.model import TextModel
from bitnet_jit.generation.sampling import Sampling, per_prompt
from bitnet_jit.generation.stopping import Stop, StopRule, stop_rules
from bitnet_jit.models.tokens import TokenIds, as_batch

DEFAULT_NEW_TOKENS = 128


def steps(
    decoder: TextModel, batch: torch.Tensor, max_new_tokens: int, options: Sequence[Sampling]
) -> Iterator[Choice]:
    """Yield the choice of the next token of each prompt; only the logits of the last position are computed."""
    cache = decoder.new_cache(batch.shape[0], batch.shape[1] + max_new_tokens)
    sampler = BatchSampler(decoder.config.vocab_size, batch.device)
    rows = [sampler.add(item, prompt) for item, prompt in zip(options, batch.tolist(), strict=True)]
    for position in range(batch.shape[1], batch.shape[1] + max_new_tokens):
        logits = decoder.logits(decoder.hidden(batch, cache)[:, -1])
        choice = sampler.choose(logits, rows, [position] * len(rows))
        yield choice
        sampler.note(rows, choice.tokens)
        batch = choice.tokens[:, None]


def checked(decoder: TextModel, input_ids: TokenIds, max_new_tokens: int | None) -> tuple[torch.Tensor, int]:
    """Return the prompts as int64 (B, T) and the number of tokens to add; InvalidInput unless they fit the context."""
    context = decoder.config.context_length
    batch = as_batch(input_ids, decoder.config.vocab_size, context, decoder.device)
    room = context - batch.shape[1]
    if not room:
        raise InvalidInput(
            f"input_ids: a prompt of {batch.shape[1]} tokens fills the model's context of {context}, so that no token "
            "can be added; shorten it"
        )
    if max_new_tokens is None:
        return batch, min(DEFAULT_NEW_TOKENS, room)
    number = as_whole(max_new_tokens)
    if number is None or not 1 <= number <= room:
        raise InvalidInput(
            f"max_new_tokens: expected 1 to {room}, as a prompt of {batch.shape[1]} tokens leaves of the model's "
            f"context of {context}, got {show(max_new_tokens)}"
        )
    return batch, number


def generate(
    decoder: TextModel,
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling | Sequence[Sampling],
    stop: Stop,
) -> torch.Tensor:
    """Continue prompts as `Decoder.generate` does, with its options gathered."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    options = options_for(decoder, sampling, len(batch))
    rules = rules_for(decoder, batch, stop)
    ended = torch.zeros(len(batch), dtype=torch.bool, device="cpu")
    columns = [batch]
    for choice in steps(decoder, batch, new_tokens, options):
        tokens = torch.where(ended.to(choice.tokens.device), columns[-1][:, -1], choice.tokens)
        columns.append(tokens[:, None])
        chosen, errors = choice.fetch()
        for row, token in enumerate(chosen):
            if ended[row]:
                continue
            if row in errors:
                raise BitNetError(f"prompt {row}: {errors[row]}")
            ended[row] = rules[row].ends_with(token)
        if bool(ended.all()):
            break
    ids = torch.cat(columns, 1)
    return ids[0] if is_flat(input_ids) else ids


def options_for(decoder: TextModel, sampling: Sampling | Sequence[Sampling], prompts: int) -> tuple[Sampling, ...]:
    """Return the options of each prompt; InvalidInput unless they fit the prompts and the vocabulary."""
    options = per_prompt(sampling, prompts)
    for item in options:
        if item.logprobs is not None:
            raise InvalidInput(f"logprobs: expected None, since tokens alone are returned, got {item.logprobs}")
        item.check_vocabulary(decoder.config.vocab_size)
    return options


def rules_for(decoder: TextModel, batch: torch.Tensor, stop: Stop) -> list[StopRule]:
    """Return a rule for each prompt of a batch (B, T) of token ids."""
    config = decoder.config
    return stop_rules(stop, config.eos_ids, decoder.tokenizer, batch.tolist(), config.vocab_size)


def is_flat(input_ids: TokenIds) -> bool:
    """Return whether one prompt was given without a batch dimension."""
    return input_ids.dim() == 1 if isinstance(input_ids, torch.Tensor) else not isinstance(input_ids[0], (list, tuple))


def stream(
    decoder: TextModel,
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling | Sequence[Sampling],
    stop: Stop,
) -> Iterator[int]:
    """Continue a prompt as `Decoder.stream` does; its options are checked at the call, not at the first token."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    if len(batch) != 1:
        raise InvalidInput(f"input_ids: stream takes one prompt, got a batch of {len(batch)}; use generate")
    options = options_for(decoder, sampling, 1)
    (rule,) = rules_for(decoder, batch, stop)

    def tokens() -> Iterator[int]:
        for choice in steps(decoder, batch, new_tokens, options):
            (token,), errors = choice.fetch()
            if errors:
                raise BitNetError(errors[0])
            yield token
            if rule.ends_with(token):
                return

    return tokens()
