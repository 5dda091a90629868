"""`Decoder.generate` and `stream`: arguments checked and gathered, texts continued, results in the prompts' form."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from bitnet_jit.errors import GenerationError, InvalidInput
from bitnet_jit.generation.continuation import Continuation, Text
from bitnet_jit.generation.draft_model import ModelDrafter
from bitnet_jit.generation.ngram import NGramDrafter
from bitnet_jit.generation.prompts import Continued, as_prompts, limits_of
from bitnet_jit.generation.sampling import Sampling, per_prompt
from bitnet_jit.generation.speculation import Speculate, Speculation, Speculator
from bitnet_jit.generation.stopping import Stop, stop_rules
from bitnet_jit.models.tokens import TokenIds
from bitnet_jit.problem import pages_for

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder


def generate(
    decoder: "Decoder",
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling | Sequence[Sampling],
    stop: Stop,
    attention_mask: torch.Tensor | None,
    speculate: "Speculate | Decoder",
) -> Continued:
    """Continue prompts as `Decoder.generate` does, with its options gathered."""
    config = decoder.config
    prompts = as_prompts(input_ids, attention_mask, config.vocab_size, config.context_length, decoder.device)
    limits = limits_of(prompts, config.context_length, max_new_tokens)
    continuation, texts = begin(decoder, prompts.rows, limits, sampling, stop, speculate)
    try:
        for _ in continuation.run():
            pass
    finally:
        decoder.idle_runner.give(continuation.close())
    if errors := {row: text.error for row, text in enumerate(texts) if text.error}:
        raise GenerationError(errors, [[*text.prompt, *text.tokens] for text in texts])
    return prompts.result([text.tokens for text in texts], decoder.device)


def stream(
    decoder: "Decoder",
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling | Sequence[Sampling],
    stop: Stop,
    speculate: "Speculate | Decoder",
) -> Iterator[int]:
    """Continue a prompt as `Decoder.stream` does; its options are checked at the call, not at the first token."""
    config = decoder.config
    prompts = as_prompts(input_ids, None, config.vocab_size, config.context_length, decoder.device)
    limits = limits_of(prompts, config.context_length, max_new_tokens)
    if len(prompts.rows) != 1:
        raise InvalidInput(f"input_ids: stream takes one prompt, got a batch of {len(prompts.rows)}; use generate")
    continuation, (text,) = begin(decoder, prompts.rows, limits, sampling, stop, speculate)

    def tokens() -> Iterator[int]:
        try:
            for _ in continuation.run():
                yield text.tokens[-1]
        finally:
            decoder.idle_runner.give(continuation.close())
        if text.error:
            raise GenerationError({0: text.error}, [[*text.prompt, *text.tokens]])

    return tokens()


def begin(
    decoder: "Decoder",
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    sampling: Sampling | Sequence[Sampling],
    stop: Stop,
    speculate: "Speculate | Decoder",
) -> tuple[Continuation, list[Text]]:
    """Return the texts of prompts and their continuation, in a cache with pages for all of their tokens.

    All that may be refused is made first; then nothing is held.
    """
    config = decoder.config
    options = options_for(sampling, len(prompts), config.vocab_size)
    rules = stop_rules(stop, config.eos_ids, decoder.tokenizer, prompts, config.vocab_size)
    lengths = [len(row) + limit for row, limit in zip(prompts, limits, strict=True)]
    speculator = make_speculator(speculate, decoder, lengths)
    with keeping(lengths):
        runner = decoder.idle_runner.take(decoder, sum(map(pages_for, lengths)), len(lengths))
    fields = zip(prompts, limits, rules, options, strict=True)
    texts = [Text(*values, runner.cache.new_sequence()) for values in fields]
    return Continuation(runner, texts, speculator), texts


def options_for(sampling: Sampling | Sequence[Sampling], prompts: int, vocab_size: int) -> tuple[Sampling, ...]:
    """Return the options of each prompt; InvalidInput unless they fit the prompts and the vocabulary."""
    options = per_prompt(sampling, prompts)
    for prompt, item in enumerate(options):
        place = "" if isinstance(sampling, Sampling) or prompts == 1 else f" (of prompt {prompt})"
        if item.logprobs is not None:
            raise InvalidInput(f"logprobs: expected None, since tokens alone are returned, got {item.logprobs}{place}")
        try:
            item.check_vocabulary(vocab_size)
        except InvalidInput as error:
            raise InvalidInput(f"{error}{place}") from None
    return options


@contextmanager
def keeping(lengths: Sequence[int]) -> Iterator[None]:
    """Name what a caller can change where memory for the tokens of texts of those lengths does not suffice."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(
            f"max_new_tokens: expected fewer tokens, or fewer prompts in a call; {len(lengths)} texts of up to "
            f"{sum(lengths)} tokens together, prompts included, are too much for memory ({error})"
        ) from error


def make_speculator(speculate: "Speculate | Decoder", decoder: "Decoder", lengths: Sequence[int]) -> Speculator | None:
    """Return what guesses the tokens of a decoder's texts; None where nothing is to be guessed.

    Args:
        speculate: as in `Decoder.generate`.
        decoder: the model.
        lengths: tokens of each text at most, its prompt included.

    Raises:
        InvalidInput: `speculate` is no way to guess, or a decoder of another vocabulary, or memory does not suffice.
    """
    if speculate is None:
        return None
    check_goes_back("speculate: expected None, as this model", decoder)
    speculation = speculate if isinstance(speculate, Speculation) else Speculation(speculate)
    draft = speculation.draft
    if isinstance(draft, str):
        return Speculator(speculation, NGramDrafter())
    ours, theirs = decoder.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise InvalidInput(
            f"speculate: the draft model has a vocabulary of {theirs} tokens, this model one of {ours}; use a draft "
            "model of the same tokens"
        )
    check_goes_back("speculate: expected another draft model, as this one", draft)
    with keeping(lengths):
        return Speculator(speculation, ModelDrafter(draft, lengths))


def check_goes_back(words: str, decoder: "Decoder") -> None:
    """Raise InvalidInput where a model cannot forget a token that was guessed wrong."""
    if decoder.config.delta_net is not None:
        raise InvalidInput(f"{words} has a gated DeltaNet, whose states cannot forget tokens that were guessed wrong")
