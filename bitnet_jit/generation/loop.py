"""The loop of generation: prompts in chunks, then one step per token of all texts that have not ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.prompts import Continued, as_prompts, limits_of
from bitnet_jit.generation.sampling import Sampler, Sampling
from bitnet_jit.generation.stopping import Stop, StopRule, stop_rules
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.network import Network
from bitnet_jit.models.tokens import TokenIds
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

MAX_STEP_TOKENS = 1024  # of prompts in one step


@dataclass(eq=False)
class Text:
    """A text that is being continued.

    Attributes:
        row: its place among the prompts.
        prompt: its token ids.
        limit: new tokens that it may get.
        rule: what ends it.
        sequence: its keys and values.
        tokens: the new ones.
    """

    row: int
    prompt: list[int]
    limit: int
    rule: StopRule
    sequence: PagedSequence
    tokens: list[int] = field(default_factory=list)

    def push(self, token: int) -> bool:
        """Take a new token; return whether the text goes on."""
        self.tokens.append(token)
        return not self.rule.ends_with(token) and len(self.tokens) < self.limit


def prefill(runner: Runner, texts: Sequence[Text]) -> torch.Tensor:
    """Run all prompts, in steps of MAX_STEP_TOKENS tokens; return logits (B, vocab_size) of the tokens that follow."""
    logits: list[torch.Tensor] = []
    chunks: list[Chunk] = []
    room = MAX_STEP_TOKENS
    for text in texts:
        start = 0
        while start < len(text.prompt):
            tokens = text.prompt[start : start + room]
            start += len(tokens)
            room -= len(tokens)
            chunks.append(Chunk(text.sequence, tokens, wanted=int(start == len(text.prompt))))
            if not room:
                logits.append(runner.step(chunks))
                chunks, room = [], MAX_STEP_TOKENS
    if chunks:
        logits.append(runner.step(chunks))
    return torch.cat(logits)


def continued(runner: Runner, texts: list[Text], sampler: Sampler) -> Iterator[Text]:
    """Continue texts until each has ended; yield a text after each token that it got."""
    logits = prefill(runner, texts)
    while texts:
        tokens = sampler.choose(logits)
        going = []
        for text, token in zip(texts, tokens.tolist(), strict=True):
            goes_on = text.push(token)
            yield text
            if goes_on:
                going.append(text)
            else:
                runner.cache.free(text.sequence)
        texts = going
        if texts:
            logits = runner.step([Chunk(text.sequence, text.tokens[-1:]) for text in texts])


def begin(
    network: Network,
    tokenizer: Tokenizer | None,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    stop: Stop,
) -> tuple[Runner, list[Text]]:
    """Return the texts of prompts, and a runner with room for all of their tokens."""
    config = network.config
    rules = stop_rules(stop, config.eos_ids, tokenizer, prompts, config.vocab_size)
    pages = sum(-(-(len(prompt) + limit) // PAGE) for prompt, limit in zip(prompts, limits, strict=True))
    runner = Runner(network, pages)
    rows = zip(prompts, limits, rules, strict=True)
    return runner, [
        Text(row, prompt, limit, rule, runner.cache.new_sequence()) for row, (prompt, limit, rule) in enumerate(rows)
    ]


def generate(
    network: Network,
    tokenizer: Tokenizer | None,
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling,
    stop: Stop,
    attention_mask: torch.Tensor | None = None,
) -> Continued:
    """Continue prompts as `Decoder.generate` does, with its options gathered."""
    config = network.config
    prompts = as_prompts(input_ids, attention_mask, config.vocab_size, config.context_length, network.device)
    limits = limits_of(prompts, config.context_length, max_new_tokens)
    runner, texts = begin(network, tokenizer, prompts.rows, limits, stop)
    for _ in continued(runner, list(texts), Sampler(sampling)):
        pass
    return prompts.result([text.tokens for text in texts], network.device)


def stream(
    network: Network,
    tokenizer: Tokenizer | None,
    input_ids: TokenIds,
    max_new_tokens: int | None,
    sampling: Sampling,
    stop: Stop,
) -> Iterator[int]:
    """Continue a prompt as `Decoder.stream` does; its options are checked at the call, not at the first token."""
    config = network.config
    prompts = as_prompts(input_ids, None, config.vocab_size, config.context_length, network.device)
    limits = limits_of(prompts, config.context_length, max_new_tokens)
    if len(prompts.rows) != 1:
        raise InvalidInput(f"input_ids: stream takes one prompt, got a batch of {len(prompts.rows)}; use generate")
    runner, texts = begin(network, tokenizer, prompts.rows, limits, stop)
    return (text.tokens[-1] for text in continued(runner, texts, Sampler(sampling)))
