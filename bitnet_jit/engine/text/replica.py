"""`Replica`: the thread that writes the texts of one decoder, step after step.

Other threads hand it requests and take pieces from their mailboxes; nobody else touches its runner. Between two steps
it takes in what has come, ends what was cancelled or is too late, and plans the next step.

Where memory is short for a step, it is undone and tried again with fewer tokens; after another error in parts, until
it is clear whose error it is. Where the device fails, the thread ends and its requests go on elsewhere: what a request
is lies in its ids, and those can be computed anew.
"""

import logging
import time
from collections.abc import Sequence
from threading import Thread, current_thread

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.devices.failures import is_device_failure, is_short_of_memory, keep_forever
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.counts import Counts
from bitnet_jit.engine.text.delivery import deliver, finish
from bitnet_jit.engine.text.graph_pace import GraphPace
from bitnet_jit.engine.text.inbox import Inbox
from bitnet_jit.engine.text.local_worker import LocalWorker
from bitnet_jit.engine.text.pace import Pace
from bitnet_jit.engine.text.parts import Parts
from bitnet_jit.engine.text.prefix_cache import PrefixCache
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Plan, Scheduler
from bitnet_jit.engine.text.step_limit import Before, StepLimit
from bitnet_jit.engine.text.successors import Successors
from bitnet_jit.engine.text.writer import Writer, Written
from bitnet_jit.errors import (
    BitNetError,
    DeviceFailed,
    EngineClosed,
    OutOfMemory,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
)
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.runner.runner import Runner

logger = logging.getLogger(__name__)

IDLE_S = 5.0  # seconds without a request, after which the worker captures steps
ABANDON_S = 30.0  # seconds for the step of a worker that is abandoned: one that is stuck would hold up the process


class Replica(LocalWorker):
    """The worker of one decoder.

    Args:
        decoder: the decoder; it may be used elsewhere at the same time.
        config: the engine's options.
        num_pages: pages of its cache.
        name: of its thread.
        successors: go on with its requests where it fails; None: they fail, too.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: EngineConfig,
        num_pages: int,
        name: str,
        successors: Successors | None = None,
    ) -> None:
        self.name, self.device = name, decoder.device
        self._successors = successors
        self._runner = Runner(decoder, num_pages, config.optimization_level.captures, config.max_running)
        cache = self._runner.cache
        keeps = config.prefix_cache and cache.states is None  # pages alone are not all that a model with states knows
        self.scheduler = Scheduler(cache, PrefixCache(cache) if keeps else None, config.max_running)
        self.counts = Counts(last_step=time.monotonic())
        self.inbox = Inbox(config.max_waiting)
        self._writer = Writer(decoder, self._runner)
        kind = kind_of(decoder.device)
        self._pace = (Pace if kind.capture is None else GraphPace)(config.step_tokens or kind.prompt_tokens)
        self._limit = StepLimit()
        self._captures = kind.capture is not None  # whether steps may be left to capture in idle moments
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Take no more requests, end those that were taken, and wait for it.

        Args:
            reason: why, for those who come later.
            abandon: whether requests are cancelled instead of written to their ends.
            timeout: seconds to wait; None: any time, for one that is abandoned as long as a step may take.
        """
        self.inbox.stop(reason, abandon)
        if self._thread is not current_thread():
            self._thread.join(ABANDON_S if abandon and timeout is None else timeout)
            if self._thread.is_alive():
                logger.error("%s has not ended: it is left behind within its step", self.name)

    def _work(self) -> None:
        """Run until closed; whatever happens, nobody is left to wait."""
        failure, kind = "", EngineClosed
        try:
            with kind_of(self.device).current(self.device):
                while self._take_in():
                    self._end_early()
                    self._share()
                    plan = {} if self._writer.ahead else self._plan()
                    if plan or self._writer.ahead:
                        self._run_guarded(plan)
        except BaseException as error:
            failure, kind = repr(error), EngineClosed
            if is_device_failure(error, self.device):
                kind = DeviceFailed
                keep_forever(self._runner, self._writer, error)
            logger.exception("the worker of a model has ended")
        finally:
            self._leave(failure, kind)

    def _leave(self, failure: str, kind: type[EngineClosed]) -> None:
        """Take no more requests; those that are left go on elsewhere, or end."""
        left = [*self.scheduler.running, *self.scheduler.waiting, *self.inbox.end(failure, kind)]
        self.scheduler.running.clear()
        self.scheduler.waiting.clear()
        count = len(left)
        for request in left:
            request.begin_anew()
        if failure and self._successors is not None and not self.inbox.abandon:
            left = self._successors.take_over(self, left, failure)
        for request in left:
            finish(request, "", self.inbox.refusal("the request was not written to its end"))
        self.counts.failed += len(left)
        self.inbox.note_ended(count)

    def _take_in(self) -> bool:
        """Take the requests that have come, and wait while there are none; return whether to go on."""
        scheduler = self.scheduler
        is_idle = not (scheduler.running or scheduler.waiting)
        patience = IDLE_S if self._captures and self.counts.steps else None
        goes_on = self.inbox.receive(scheduler.add, is_idle, patience)
        if is_idle and not scheduler.waiting:
            self._capture()
        return goes_on

    def _capture(self) -> None:
        """Capture steps that requests may need, until one comes; after an error, steps do without."""
        try:
            while self._captures and not self.inbox.came and not self.inbox.closing:
                self._captures = self._runner.capture_next(self.scheduler.max_running)
        except Exception as error:
            if is_device_failure(error, self.device):
                raise
            self._captures = False
            logger.warning("%s captures no more steps ahead of requests: %r", self.name, error)

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

    def _share(self) -> None:
        """Give every second request that waits to a replica that has nothing to do."""
        waiting = self.scheduler.waiting
        if self._successors is None or len(waiting) < 2 or (other := self._successors.idle(self)) is None:
            return
        for request in waiting[1::2]:
            waiting.remove(request)
            self._writer.forget(request)
            request.begin_anew()
            if not other.adopt(request):  # it has ended in this moment
                self.scheduler.add(request)
                return
            self.inbox.note_ended()

    def _plan(self) -> Plan:
        """Return the next step."""
        scheduler = self.scheduler
        pace = self._pace.budget(scheduler.num_writing, scheduler.num_reading, scheduler.num_young)
        return self._limit.cut(scheduler.plan(self._limit.budget(pace)))

    def _run_guarded(self, plan: Plan) -> None:
        """Run a step, or end the one that was begun; where it fails, run it in parts."""
        if self._writer.ahead is not None:
            plan = dict.fromkeys(self._writer.ahead.alive, 1)
        parts = Parts(plan)
        for part in parts:
            self._run_part(part, parts)

    def _run_part(self, plan: Plan, parts: Parts) -> None:
        """Run a step, or a part of one that failed."""
        start = time.monotonic()
        before = Before.step(plan)
        writing = sum(request.left <= 1 for request in plan)
        prompts = sum(plan.values()) - writing
        try:
            self._run(plan)
        except Exception as error:
            self._recover(plan, before, parts, error)
        else:
            self._limit.note()
            if self._writer.is_settled:
                self._pace.note(writing, prompts, time.monotonic() - start)
            self.counts.prompt_tokens += prompts
        self.counts.last_step = time.monotonic()
        self.counts.steps += 1

    def _recover(self, plan: Plan, before: Before, parts: Parts, error: Exception) -> None:
        """Mend what an error in a step has left; raise DeviceFailed where the device cannot be used any more."""
        if is_device_failure(error, self.device):
            raise DeviceFailed(f"{self.device}: {error}") from error
        self._writer.drop(plan)
        guessed = before.undo(self._runner.cache, is_short := is_short_of_memory(error, self.device))
        if is_short:
            if self._limit.lower(sum(plan.values())) or guessed:
                parts.clear()
                return
            if self._successors is not None and self._successors.has_other(self):
                raise DeviceFailed(f"{self.device}: not even one token fits into its memory: {error}") from error
            error = OutOfMemory(f"{self.device} has too little memory for a step of one token ({error})")
        elif parts.split(plan, before.left(self.scheduler.running)):
            logger.warning("a step of %d requests failed, and is run again in parts: %r", len(plan), error)
            return
        logger.error("a step of one request failed", exc_info=error)
        for request in before.left(self.scheduler.running):
            self._end(request, "", error if isinstance(error, BitNetError) else RequestFailed(repr(error)))

    def _run(self, plan: Plan) -> None:
        """Run a step, or end the one that was begun, and hand out what it chose."""
        writer, goes_on = self._writer, self._goes_on
        for written in writer.run(plan, goes_on) if writer.ahead is None else writer.go_on(goes_on):
            try:
                self._hand_out(written)
            except RequestFailed as error:
                writer.put_back(written.request)
                self._end(written.request, "", error)

    def _hand_out(self, written: Written) -> None:
        """Hand a request what a step chose for it; raise RequestFailed where it fails by itself."""
        request = written.request
        if not request.new_tokens:
            self.scheduler.note_computed(request)
        reason = deliver(request, written.tokens, written.logprobs, written.first, self.counts)
        if self._writer.ahead is None:  # else its last token is being computed
            self._runner.cache.truncate(request.sequence, len(request.ids) - 1)
        if reason:
            self._end(request, reason)
        elif written.error:
            raise RequestFailed(written.error)
        elif request.pool is not None:
            self._end(request, "stop")

    def _goes_on(self, requests: Sequence[Request]) -> bool:
        """Return whether the next step may begin before the tokens of this one have come."""
        return (self._limit.tokens or len(requests)) >= len(requests) and self.scheduler.goes_on(requests)

    def _end(self, request: Request, reason: str, error: BitNetError | None = None) -> None:
        """Forget a request, free what it had, and tell its caller."""
        self.scheduler.remove(request)
        self._writer.forget(request)
        self.counts.finished += error is None
        self.counts.failed += error is not None
        finish(request, reason, error)
        self.inbox.note_ended()
