"""`Writer`: one step of a plan on a runner, from ids to chosen tokens; it knows no clock, no caller and no queue.

Guesses (`speculate="ngram"`) are tokens that followed the last ones where they stood before in the same text. A step
verifies them: one is kept where the model chooses the same, so they change no text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.embeddings.pooling import pool_hidden
from bitnet_jit.engine.text.ahead import Ahead, GoesOn, begin
from bitnet_jit.engine.text.prompt_scores import note_scores, wants_all
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Plan
from bitnet_jit.generation.batch_sampler import BatchSampler, Choice, read_codes
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.logprobs import Logprobs
from bitnet_jit.problem import pages_for
from bitnet_jit.runner.decode import MAX_ROWS, Scores
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

RECENT_STEPS, STABLE_STEPS = 16, 4  # so many of a shape among the last ones: then it is captured, which takes as long
STABLE_GRAPHS = 1  # where steps are graphs, of fewer shapes
MAX_GUESSES = 8  # of a text in a step


@dataclass(frozen=True)
class Written:
    """What a step chose for one request.

    Attributes:
        request: the request.
        tokens: its next tokens, one at least; none where it failed, or was read for an embedding.
        first: the row of the first one in the step's log-probabilities.
        logprobs: of the step, or None.
        error: why it failed, in words, or "".
    """

    request: Request
    tokens: list[int]
    first: int
    logprobs: Logprobs | None
    error: str = ""


class Writer:
    """Runs steps.

    Args:
        decoder: the network.
        runner: has the pages of its requests.

    Attributes:
        ahead: the step that was begun already, which `go_on` ends; None: there is none.
        is_settled: whether the last step was like those of its shape that will come: not one before it is captured.
        guessed, accepted: guesses that were verified, and those that were right.
    """

    def __init__(self, decoder: Decoder, runner: Runner) -> None:
        self._device, self._runner = decoder.device, runner
        self._sampler = BatchSampler(decoder.config.vocab_size, decoder.device)
        self._shapes: deque[tuple[int, ...]] = deque(maxlen=RECENT_STEPS)
        self._stable = STABLE_STEPS if kind_of(self._device).capture is None else STABLE_GRAPHS
        self._arrived: Callable[[], torch.Tensor] | None = None  # kept, as it holds memory that a device writes to
        self.ahead: Ahead | None = None
        self.is_settled = True
        self.guessed = self.accepted = 0

    def run(self, plan: Plan, goes_on: GoesOn) -> list[Written]:
        """Compute the ids of a step, and choose tokens where the last id of a request was among them.

        Args:
            plan: the step.
            goes_on: whether requests may have a next step at once; see `ahead.begin`.
        """
        whole = [request for request, tokens in plan.items() if tokens == request.left]
        ready = [request for request in whole if request.pool is None]
        if guessing := [request for request in ready if request.left == 1 and request.ngrams is not None]:
            self._guess(guessing, plan)
        wanted = {request: wanted_of(request, tokens) for request, tokens in plan.items()}
        scored = {request: request.sequence.length for request in plan if wants_all(request)}
        scores = self._compute(plan, wanted)
        for request in plan:
            if request.row < 0 and request.pool is None:
                self._take_in(request)
        logits = note_prompts(wanted, scored, ready, scores.logits) if scored else scores.logits
        pooled = [Written(request, [], 0, None, request.pool.read()) for request in whole if request.pool is not None]
        if not ready:
            return pooled
        rows = [request.row for request in ready for _ in range(1 + len(request.guesses))]
        positions = [len(request.ids) + place for request in ready for place in range(1 + len(request.guesses))]
        choice = self._sampler.choose(logits, rows, positions, scores.largest, masks_of(ready, self._device))
        return pooled + self._read(ready, rows, choice, goes_on)

    def go_on(self, goes_on: GoesOn) -> list[Written]:
        """Choose tokens behind the step that was begun; see `run`."""
        assert self.ahead is not None
        ready, scores = self.ahead.left()
        self.ahead = None
        if not ready:
            return []
        rows = [request.row for request in ready]
        positions, masks = [len(request.ids) for request in ready], masks_of(ready, self._device)
        choice = self._sampler.choose(scores.logits, rows, positions, scores.largest, masks)
        return self._read(ready, rows, choice, goes_on)

    def drop(self, plan: Iterable[Request]) -> None:
        """Forget what an error in a step has left of it, and the step that was begun: both can be computed again."""
        self.ahead = None
        for request in plan:
            self.put_back(request)

    def put_back(self, request: Request) -> None:
        """Forget what was computed behind the last but one id of a request, and its row: both can be made again."""
        length = min(request.sequence.length, len(request.ids) - 1)  # 0 where it has ended
        self._runner.cache.truncate(request.sequence, length)
        self.forget(request)

    def _take_in(self, request: Request) -> None:
        """Give a request a row of the sampler, which knows the tokens that it got before: elsewhere, or in vain."""
        prompt = request.ids[: request.prompt_length]
        request.row = self._sampler.add(request.options, prompt, request.matcher is not None)
        if request.new_tokens:
            tokens = torch.tensor(request.ids[request.prompt_length :], device=self._device)
            self._sampler.note([request.row] * request.new_tokens, tokens)

    def forget(self, request: Request) -> None:
        """Forget a request that has ended, or that begins a step anew."""
        if request.row >= 0:
            self._sampler.remove(request.row)
            request.row = -1

    def _guess(self, writing: list[Request], plan: Plan) -> None:
        """Guess the next tokens of texts that ask for it, as far as pages are free."""
        pool = self._runner.cache.pool
        free = pool.num_free - sum(pages_for(r.sequence.length + n) - len(r.sequence.pages) for r, n in plan.items())
        for request in writing:
            request.guesses = request.next_guesses(MAX_GUESSES)
            length = request.sequence.length + 1
            free -= pages_for(length + len(request.guesses)) - pages_for(length)
            if free < 0:
                request.guesses = []
                return

    def _compute(self, plan: Plan, wanted: Mapping[Request, int]) -> Scores:
        """Run the network on a step; return the scores behind each request whose last id is among them."""
        pools = [request for request in plan if request.pool is not None]
        self.is_settled = True
        writes = all(request.left == 1 and not request.guesses for request in plan) and not pools
        if writes and (self._runner.runs_ahead or (len(plan) <= MAX_ROWS and self._comes_again(len(plan)))):
            last = torch.tensor([request.ids[-1] for request in plan], device=self._device)
            return self._runner.advance([request.sequence for request in plan], last)
        chunks = []
        for request, tokens in plan.items():
            start = request.sequence.length
            ids = request.ids[start : start + tokens] + request.guesses
            chunks.append(Chunk(request.sequence, ids, len(ids) if request in pools else wanted[request]))
        if pools:
            hidden = self._runner.hidden(chunks)
            rows = {request: chunk.wanted for request, chunk in zip(plan, chunks, strict=True)}
            return Scores(self._runner.network.logits(pool_hidden(rows, hidden)), None)
        shape, is_captured = self._runner.shape_of(chunks)
        again = shape is not None and not writes and (is_captured or self._comes_again(*shape))
        self.is_settled = is_captured or shape is None or not self._runner.runs_ahead
        return Scores(self._runner.repeat(chunks) if again else self._runner.step(chunks), None)

    def _comes_again(self, *shape: int) -> bool:
        """Return whether steps of a shape have been some of the last ones: a captured step has one."""
        self._shapes.append(shape)
        return self._shapes.count(shape) > self._stable

    def _read(self, ready: list[Request], rows: list[int], choice: Choice, goes_on: GoesOn) -> list[Written]:
        """Return what was chosen, without what stands behind a wrong guess; meanwhile the next step may begin."""
        self._sampler.note(rows, choice.tokens)  # for penalties: texts that have some have no guesses
        self._arrived = kind_of(self._device).begin_fetch(choice.codes)
        self.ahead = begin(self._runner, ready, choice, goes_on)
        tokens, errors = read_codes(self._arrived())
        written, first = [], 0
        for request in ready:
            chosen = tokens[first : first + 1 + len(request.guesses)]
            right = 0
            while right < len(request.guesses) and request.guesses[right] == chosen[right]:
                right += 1
            self.guessed += len(request.guesses)
            self.accepted += right
            request.guesses = []
            bad = next((place for place in range(right + 1) if first + place in errors), None)
            kept = chosen[: right + 1] if bad is None else chosen[:bad]
            error = "" if bad is None else errors[first + bad]
            if error and request.matcher is not None:
                error = request.matcher.error or error
            written.append(Written(request, kept, first, choice.logprobs, error))
            first += len(chosen)
        return written


def wanted_of(request: Request, tokens: int) -> int:
    """Return behind how many of the next tokens of a request, with its guesses, logits are wanted."""
    if request.pool is not None:
        return 0
    if wants_all(request):
        return tokens
    return 1 + len(request.guesses) if tokens == request.left else 0


def masks_of(ready: Sequence[Request], device: torch.device) -> torch.Tensor | None:
    """Return which tokens the grammars of requests let follow, and behind each guess; None where none has one."""
    masks = [request.matcher.masks(request.guesses) for request in ready if request.matcher is not None]
    return torch.cat(masks).to(device) if masks else None


def note_prompts(
    wanted: Mapping[Request, int], scored: Mapping[Request, int], ready: Sequence[Request], logits: torch.Tensor
) -> torch.Tensor:
    """Note the log-probabilities of prompts; return the logits by which tokens are chosen.

    Args:
        wanted: how many rows of logits each request has, in order.
        scored: where the chunk of each began whose prompt's log-probabilities are wanted.
        ready: requests that get a token.
        logits: (rows, vocab_size) float32.
    """
    kept: list[int] = []
    first = 0
    for request, number in wanted.items():
        rows = range(first, first + number)
        if request in scored:
            note_scores(request, logits[first : first + number], scored[request])
            rows = rows[-1:]
        kept += rows if request in ready else []
        first += number
    return logits[kept]
