"""Continue texts together: prompts in chunks, then steps in which each text gets one token, or several drafted ones."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.generation.batch_sampler import BatchSampler, read_codes
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.speculation import Speculator
from bitnet_jit.generation.stopping import StopRule
from bitnet_jit.runner.decode import Scores
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk


@dataclass(eq=False)
class Text:
    """A text that is being continued.

    Attributes:
        prompt: its token ids.
        limit: new tokens that it may get.
        rule: what ends it.
        options: how its tokens are chosen.
        sequence: its keys and values: of all its tokens but the last one.
        tokens: the new ones.
        error: why it got no more tokens, in words; "" where nothing went wrong.
    """

    prompt: list[int]
    limit: int
    rule: StopRule
    options: Sampling
    sequence: PagedSequence
    tokens: list[int] = field(default_factory=list)
    error: str = ""
    row: int = -1  # of the sampler

    @property
    def length(self) -> int:
        """Return the number of its tokens."""
        return len(self.prompt) + len(self.tokens)

    def ids_from(self, place: int) -> list[int]:
        """Return the ids of prompt and new tokens together, from a place on."""
        before = len(self.prompt)
        return [*self.prompt[place:], *self.tokens] if place < before else self.tokens[place - before :]

    def push(self, token: int) -> bool:
        """Take a new token; return whether the text goes on."""
        self.tokens.append(token)
        return not self.rule.ends_with(token) and len(self.tokens) < self.limit


class Continuation:
    """Texts that are continued together, each until its own end.

    Args:
        runner: has pages for all of their tokens.
        texts: those.
        speculator: guesses tokens, which one step verifies together; None: one token per step.
    """

    def __init__(self, runner: Runner, texts: Sequence[Text], speculator: Speculator | None = None) -> None:
        device, config = runner.network.device, runner.network.config
        self._runner, self._texts, self._speculator = runner, list(texts), speculator
        self._sampler = BatchSampler(config.vocab_size, device)
        for text in texts:
            text.row = self._sampler.add(text.options, text.prompt)

    def run(self) -> Iterator[Text]:
        """Continue the texts; yield a text for each token that it gets, its last one where it ends."""
        scores = Scores(self._prefill(), None)
        drafts: list[list[int]] = [[] for _ in self._texts]
        while self._texts:
            if self._speculator is None and self._runner.runs_ahead:
                scores = yield from self._step_ahead(scores)
            else:
                yield from self._take(scores, drafts)
                drafts = self._drafts()
                scores = self._step(drafts) if self._texts else scores

    def close(self) -> Runner:
        """End all texts where they are; return the runner, whose pages are free then."""
        for text in self._texts:
            self._end(text)
        self._texts = []
        return self._runner

    def _prefill(self) -> torch.Tensor:
        """Run all prompts, as many tokens in a step as suit the device; return logits (B, vocab_size) behind them."""
        logits: list[torch.Tensor] = []
        chunks: list[Chunk] = []
        kind = kind_of(self._runner.network.device)
        room = kind.prompt_tokens
        for text in self._texts:
            start = 0
            while start < len(text.prompt):
                tokens = text.prompt[start : start + room]
                start += len(tokens)
                room -= len(tokens)
                chunks.append(Chunk(text.sequence, tokens, wanted=int(start == len(text.prompt))))
                if not room:
                    logits.append(self._runner.step(chunks))
                    kind.give_back()  # what is kept between steps of a long prompt lies scattered, and grows
                    chunks, room = [], kind.prompt_tokens
        if chunks:
            logits.append(self._runner.step(chunks))
        if len(logits) > 1:
            kind.give_back()  # steps of one token need little of what steps of many took
        return torch.cat(logits)

    def _drafts(self) -> list[list[int]]:
        """Return the guesses of the tokens behind each text's last one."""
        if self._speculator is None:
            return [[] for _ in self._texts]
        return self._speculator.draft(self._texts)

    def _step(self, drafts: list[list[int]]) -> Scores:
        """Run the last token of each text and its guesses; return the scores behind all of them."""
        if not any(drafts):
            last = torch.tensor([text.tokens[-1] for text in self._texts], device=self._runner.network.device)
            return self._runner.advance([text.sequence for text in self._texts], last)
        rows = zip(self._texts, drafts, strict=True)
        chunks = [Chunk(text.sequence, [*text.tokens[-1:], *guesses], 1 + len(guesses)) for text, guesses in rows]
        return Scores(self._runner.step(chunks), None)

    def _take(self, scores: Scores, drafts: list[list[int]]) -> Iterator[Text]:
        """Choose the tokens behind each text and its guesses; keep those before which all guesses were right."""
        rows = [text.row for text, guesses in zip(self._texts, drafts, strict=True) for _ in range(1 + len(guesses))]
        positions = [
            text.length + place
            for text, guesses in zip(self._texts, drafts, strict=True)
            for place in range(1 + len(guesses))
        ]
        choice = self._sampler.choose(scores.logits, rows, positions, scores.largest)
        tokens, errors = choice.fetch()
        going: list[tuple[Text, range]] = []
        start = 0
        for text, guesses in zip(self._texts, drafts, strict=True):
            goes_on, accepted, place = True, 0, start
            for place, guess in enumerate([*guesses, None], start):
                if place in errors:
                    text.error, goes_on = errors[place], False
                    break
                goes_on = text.push(tokens[place])
                yield text
                accepted += guess == tokens[place]
                if not goes_on or guess != tokens[place]:
                    break
            if self._speculator is not None and len(text.tokens) > 1:  # the first one comes from the prompt
                self._speculator.count(len(guesses), accepted)
            if goes_on:
                self._runner.cache.truncate(text.sequence, text.length - 1)
                going.append((text, range(start, place + 1)))
            else:
                self._end(text)
            start += 1 + len(guesses)
        self._texts = [text for text, _ in going]
        taken = [(text.row, place) for text, places in going for place in places]
        self._sampler.note([row for row, _ in taken], choice.tokens, [place for _, place in taken])

    def _step_ahead(self, scores: Scores) -> Generator[Text, None, Scores]:
        """Choose one token per text and begin the next step before the tokens have come to the host."""
        texts = self._texts
        rows = [text.row for text in texts]
        choice = self._sampler.choose(scores.logits, rows, [text.length for text in texts], scores.largest)
        self._sampler.note(rows, choice.tokens)
        arrived = kind_of(choice.codes.device).begin_fetch(choice.codes)
        places = [place for place, text in enumerate(texts) if len(text.tokens) + 1 < text.limit]
        if places:
            chosen = choice.tokens if len(places) == len(texts) else choice.tokens[places]
            scores = self._runner.advance([texts[place].sequence for place in places], chosen)
        tokens, errors = read_codes(arrived())
        going = []
        for place, text in enumerate(texts):
            if place in errors:
                text.error = errors[place]
                self._end(text)
                continue
            goes_on = text.push(tokens[place])
            yield text
            if goes_on:
                going.append(places.index(place))
            else:
                self._end(text)
        self._texts = [texts[places[place]] for place in going]
        return scores if len(going) == len(places) else Scores(scores.logits[going], None)

    def _end(self, text: Text) -> None:
        """Free the pages of a text and its row of the sampler, once."""
        self._runner.cache.free(text.sequence)
        if text.row >= 0:
            self._sampler.remove(text.row)
            text.row = -1
