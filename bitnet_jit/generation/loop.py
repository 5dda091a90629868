"""The loop of generation: prefill, then one step per token, until every text has ended."""

from collections.abc import Iterator

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.model import TextModel
from bitnet_jit.generation.sampling import Sampler, Sampling
from bitnet_jit.generation.stopping import Stop, StopRule, stop_rules
from bitnet_jit.models.tokens import TokenIds, as_batch

DEFAULT_NEW_TOKENS = 128


def steps(decoder: TextModel, batch: torch.Tensor, max_new_tokens: int, sampler: Sampler) -> Iterator[torch.Tensor]:
    """Yield the next token of each prompt, (B,) int64; only the logits of the last position are computed."""
    cache = decoder.new_cache(batch.shape[0], batch.shape[1] + max_new_tokens)
    for _ in range(max_new_tokens):
        tokens = sampler.choose(decoder.logits(decoder.hidden(batch, cache)[:, -1]))
        yield tokens
        batch = tokens[:, None]


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
    decoder: TextModel, input_ids: TokenIds, max_new_tokens: int | None, sampling: Sampling, stop: Stop
) -> torch.Tensor:
    """Continue prompts as `Decoder.generate` does, with its options gathered."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    rules = rules_for(decoder, batch, stop)
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


def rules_for(decoder: TextModel, batch: torch.Tensor, stop: Stop) -> list[StopRule]:
    """Return a rule for each prompt of a batch (B, T) of token ids."""
    config = decoder.config
    return stop_rules(stop, config.eos_ids, decoder.tokenizer, batch.tolist(), config.vocab_size)


def is_flat(input_ids: TokenIds) -> bool:
    """Return whether one prompt was given without a batch dimension."""
    return input_ids.dim() == 1 if isinstance(input_ids, torch.Tensor) else not isinstance(input_ids[0], (list, tuple))


def stream(
    decoder: TextModel, input_ids: TokenIds, max_new_tokens: int | None, sampling: Sampling, stop: Stop
) -> Iterator[int]:
    """Continue a prompt as `Decoder.stream` does; its options are checked at the call, not at the first token."""
    batch, new_tokens = checked(decoder, input_ids, max_new_tokens)
    if len(batch) != 1:
        raise InvalidInput(f"input_ids: stream takes one prompt, got a batch of {len(batch)}; use generate")
    (rule,) = rules_for(decoder, batch, stop)

    def tokens() -> Iterator[int]:
        for chosen in steps(decoder, batch, new_tokens, Sampler(sampling)):
            token = int(chosen)
            yield token
            if rule.ends_with(token):
                return

    return tokens()
