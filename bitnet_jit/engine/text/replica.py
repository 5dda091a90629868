"""`Replica`: the thread that writes the texts of one decoder, step after step.

Other threads hand it requests and take pieces from their mailboxes; nobody else touches its runner. Between two steps
it takes in what has come, ends what was cancelled or is too late, and plans the next step.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass
from threading import Condition, Thread

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.text.delivery import deliver, finish
from bitnet_jit.engine.text.pace import Pace
from bitnet_jit.engine.text.prefix_cache import PrefixCache
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Plan, Scheduler
from bitnet_jit.engine.text.writer import Writer
from bitnet_jit.errors import BitNetError, EngineClosed, QueueFull, RequestCancelled, RequestFailed, RequestTimeout
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.runner.runner import Runner

logger = logging.getLogger(__name__)


@dataclass
class Counts:
    """What a replica has done since it began.

    Attributes:
        prompt_tokens, new_tokens: computed, and written.
        steps: steps that it ran.
        finished, failed: requests that ended, as asked and otherwise.
        last_step: when the last step ended, in seconds of the monotonic clock.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    finished: int = 0
    failed: int = 0
    last_step: float = 0.0


class Replica:
    """The worker of one decoder.

    Args:
        decoder: the decoder; it may be used elsewhere at the same time.
        config: the engine's options.
        num_pages: pages of its cache.
        name: of its thread.

    Attributes:
        scheduler: its requests.
        counts: what it has done.
    """

    def __init__(self, decoder: Decoder, config: EngineConfig, num_pages: int, name: str) -> None:
        self._max_waiting = config.max_waiting
        self._runner = Runner(decoder, num_pages)
        cache = self._runner.cache
        self.scheduler = Scheduler(cache, PrefixCache(cache) if config.prefix_cache else None, config.max_running)
        self.counts = Counts(last_step=time.monotonic())
        self._writer = Writer(decoder, self._runner)
        self._pace = Pace(config.step_tokens or kind_of(decoder.device).prompt_tokens)
        self._came: deque[Request] = deque()
        self._changed = Condition()
        self._closing: str = ""  # why no more requests are taken
        self._abandon = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    @property
    def guesses(self) -> tuple[int, int]:
        """Return how many tokens were guessed, and how many of them rightly."""
        return self._writer.guessed, self._writer.accepted

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun."""
        return len(self._came) + len(self.scheduler.waiting)

    def submit(self, request: Request) -> None:
        """Take a request; called by any thread.

        Raises:
            QueueFull: too many wait.
            EngineClosed: no more are taken.
        """
        with self._changed:
            if self._closing:
                raise EngineClosed(f"the engine takes no more requests: {self._closing}")
            if self.num_waiting >= self._max_waiting:
                raise QueueFull(f"{self.num_waiting} requests wait, as many as may (max_waiting); try again later")
            self._came.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """End a request before the next step; called by any thread."""
        request.is_cancelled = True  # steps follow one another while there are requests, so nobody need be woken

    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Take no more requests, end those that were taken, and wait for it.

        Args:
            reason: why, for those who come later.
            abandon: whether requests are cancelled instead of written to their ends.
            timeout: seconds to wait.
        """
        with self._changed:
            self._closing, self._abandon = self._closing or reason, abandon
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        """Run until closed; whatever happens, nobody is left to wait."""
        try:
            while self._take_in():
                self._end_early()
                scheduler = self.scheduler
                if plan := scheduler.plan(self._pace.budget(scheduler.num_writing, scheduler.num_reading)):
                    self._run_guarded(plan)
        except BaseException as error:
            logger.exception("the worker of a model has ended")
            self._closing = f"its worker has ended: {error!r}"
        finally:
            with self._changed:
                self._closing = self._closing or "its worker has ended"
                left = [*self.scheduler.running, *self.scheduler.waiting, *self._came]
            for request in left:
                finish(request, "", EngineClosed(f"the request was not written to its end: {self._closing}"))

    def _take_in(self) -> bool:
        """Take the requests that have come, and wait while there are none; return whether to go on."""
        with self._changed:
            while not (self._came or self.scheduler.running or self.scheduler.waiting):
                if self._closing:
                    return False
                self._changed.wait()
            while self._came:
                self.scheduler.add(self._came.popleft())
            return not self._abandon

    def _end_early(self) -> None:
        """End requests that were cancelled, or whose deadline has passed."""
        now = time.monotonic()
        for request in [*self.scheduler.running, *self.scheduler.waiting]:
            if request.is_cancelled:
                self._end(request, "", RequestCancelled("the request was cancelled by its caller"))
            elif request.deadline is not None and now > request.deadline:
                seconds = request.deadline - request.arrived
                words = f"timeout_s: {seconds:g} s have passed, and the text has {request.new_tokens} new tokens"
                self._end(request, "", RequestTimeout(words))

    def _run_guarded(self, plan: Plan) -> None:
        """Run a step; an error ends the requests of the step, and no others."""
        start = time.monotonic()
        writing = sum(request.left == 1 for request in plan)
        prompts = sum(plan.values()) - writing
        try:
            self._run(plan)
        except Exception as error:
            logger.exception("a step of %d requests failed", len(plan))
            for request in plan:
                if request in self.scheduler.running:
                    self._end(request, "", error if isinstance(error, BitNetError) else RequestFailed(repr(error)))
        self.counts.last_step = now = time.monotonic()
        self.counts.steps += 1
        self.counts.prompt_tokens += prompts
        self._pace.note(writing, prompts, now - start)

    def _run(self, plan: Plan) -> None:
        """Run a step and hand out what it chose."""
        for written in self._writer.run(plan):
            request, reason = written.request, ""
            if not request.new_tokens:
                self.scheduler.note_computed(request)
            for place, token in enumerate(written.tokens):
                reason = request.push(token)
                self.counts.new_tokens += 1
                deliver(request, token, written.logprobs, written.first + place, bool(reason))
                if reason:
                    break
            self._runner.cache.truncate(request.sequence, len(request.ids) - 1)
            if reason:
                self._end(request, reason)
            elif written.error:
                self._end(request, "", RequestFailed(written.error))
            elif request.pool is not None:
                self._end(request, "stop")

    def _end(self, request: Request, reason: str, error: BitNetError | None = None) -> None:
        """Forget a request, free what it had, and tell its caller."""
        self.scheduler.remove(request)
        self._writer.forget(request)
        self.counts.finished += error is None
        self.counts.failed += error is not None
        finish(request, reason, error)
