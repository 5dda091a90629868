"""`ProcessReplica`: a worker in a process of its own, which may end at any moment.

A lost GPU context, a system that ends processes, or a step that never ends cost that process alone: what a request is
lies in its ids, which are here. It goes on on another worker, or on this one once its process has been started anew,
and its text is the one that it would have been. Tokens that have come count; all others are computed anew.
"""

import logging
import time
from concurrent.futures import Future
from threading import Thread, current_thread
from typing import Any

from bitnet_jit.engine.text.generation import End
from bitnet_jit.engine.text.processes.messages import Begun, Failed, Given, Lost, Ready, Start, Update
from bitnet_jit.engine.text.processes.open_requests import OpenRequests
from bitnet_jit.engine.text.processes.remote_worker import RemoteWorker
from bitnet_jit.engine.text.processes.restarts import Restarts
from bitnet_jit.engine.text.processes.session import Session
from bitnet_jit.engine.text.processes.totals import Totals
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.successors import Successors
from bitnet_jit.errors import (
    CheckpointError,
    DeviceFailed,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
)

logger = logging.getLogger(__name__)

MAX_DEATHS = 4  # of processes that had a request in a step and gave it no token: then it is what ends them
KILLED_S = 30.0  # for the end of a process that was killed: one within its driver may take long
LOOK_S = 0.05  # between two looks at deadlines while there is no process


class ProcessReplica(RemoteWorker):
    """The worker of one device, in a process of its own; see `Worker`.

    Args:
        start: what its processes load.
        successors: the group that it is a member of.
    """

    def __init__(self, start: Start, successors: Successors) -> None:
        self.name, self.device = start.name, start.device
        self.ready: Future[Ready] = Future()
        self._start, self._successors = start, successors
        self._open, self._totals, self._restarts = OpenRequests(), Totals(last_step=time.monotonic()), Restarts()
        self._changed = self._open.changed
        self._session: Session | None = None
        self._closing, self._failure, self._abandon, self._has_ended = "", "", False, False
        self._thread = Thread(target=self._keep, name=start.name, daemon=True)
        self._thread.start()

    def stop(self, reason: str, abandon: bool) -> None:
        """Take no more requests; the process ends behind those that it has, or at once where they are abandoned."""
        with self._changed:
            first, self._closing, self._abandon = not self._closing, self._closing or reason, abandon
            if self._session is not None:
                if abandon or not self.is_ready:
                    self._session.kill(reason)
                elif first:
                    self._session.stop(reason)
            self._changed.notify_all()

    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Stop, and wait for the end of the process, which is killed once so many seconds have passed."""
        self.stop(reason, abandon)
        if self._thread is current_thread():
            return
        self._thread.join(KILLED_S if abandon else timeout)
        if self._thread.is_alive():
            self.stop(reason, abandon=True)
            self._thread.join(KILLED_S)
        if self._thread.is_alive():
            logger.error("%s has not ended: its process is left behind", self.name)

    def _keep(self) -> None:
        """Keep a process running, until there is to be none; whatever happens, nobody is left to wait."""
        pause: float | None = 0.0
        try:
            while pause is not None:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = None if self._closing else self._run()
                self._totals.restarts += pause is not None
        except BaseException as error:
            logger.exception("%s has failed", self.name)
            self._failure = repr(error)
        finally:
            with self._changed:
                self._has_ended = True
                left = self._open.take_all()
            self._open.end(left, error=self.refusal("the request was not written to its end"))
            if not self.ready.done():
                self.ready.set_exception(self.refusal(f"{self.name} has ended"))

    def _run(self) -> float | None:
        """Run one process to its end; return the seconds after which another is started, None for no other."""
        try:
            session = Session(self._start)
        except OSError as error:
            return self._lose(None, error, f"its process cannot be started ({error})")
        with self._changed:
            self._session = session
            if self._closing:
                session.kill(self._closing)
        try:
            while True:
                self._read(session, session.receive())
        except EOFError:
            how = session.end()
        except BaseException:
            session.kill("its messages cannot be read")
            session.end()
            raise
        return self._lose(session, session.error, how)

    def _lose(self, session: Session | None, error: Exception | None, failure: str) -> float | None:
        """Have requests go on where a process has ended; return the seconds after which another one is started."""
        begun = set() if session is None else session.begun
        was_ready = self.ready.done()
        with self._changed:  # from now on requests stay here, or go elsewhere at once
            left, self._session, self._failure = self._open.take_all(), None, failure
            pause = None if self._closing else self._restarts.pause(0.0 if session is None else session.worked_s)
            if isinstance(error, CheckpointError) or not was_ready:  # another one would end in the same way
                pause = None
            self._has_ended = pause is None
            self._totals.add(None if session is None else session.stats)
        if not was_ready:
            self.ready.set_exception(error or DeviceFailed(f"{self.name} on {self.device}: {failure}"))
        going = [request for request in left if self._survives(request, request.number in begun)]
        if pause is not None:
            words = "%s on %s: %s; its %d requests go on, and it is started anew in %g s"
            logger.error(words, self.name, self.device, failure, len(going), pause)
            Thread(target=self._expire, name=f"{self.name} deadlines", daemon=True).start()
        gone = was_ready and pause is None and not self._closing
        refused = self._successors.take_over(self, going, failure) if gone else self._successors.place(going)
        self._open.put_down(len(going) - len(refused))
        self._open.end(refused, error=self.refusal("the request was not written to its end"))
        return pause

    def _survives(self, request: Request, had_begun: bool) -> bool:
        """Return whether a request goes on elsewhere; else it ends here."""
        request.begin_anew()
        request.deaths += had_begun
        if request.is_cancelled:
            self._open.end([request], error=RequestCancelled("the request was cancelled by its caller"))
        elif request.deaths >= MAX_DEATHS:
            words = f"{request.deaths} processes have ended while it was to get its next token: {self._failure}"
            self._open.end([request], error=RequestFailed(words))
        else:
            return True
        return False

    def _expire(self) -> None:
        """End requests whose deadline passes while there is no process that looks."""
        while not self.is_ready and not self._has_ended:
            now = time.monotonic()
            late = [one for one in self._open.all() if one.deadline is not None and one.deadline < now]
            for request in [taken for one in late for taken in self._open.take(one.number)]:
                words = f"timeout_s: its time has passed, and the text has {request.new_tokens} new tokens"
                self._open.end([request], error=RequestTimeout(words))
            time.sleep(LOOK_S)

    def _read(self, session: Session, update: Update) -> None:
        """Take note of what has happened in the process."""
        with self._changed:
            session.note(update)
            self._totals.note(update.stats)
        for item in update.items:
            if isinstance(item, tuple):
                self._receive(session, *item)
            else:
                self._heed(session, item)
        with self._changed:
            session.try_suspect(len(self._open))
        waiting = 0 if update.stats is None else update.stats.waiting
        if waiting > 1 and self._successors.idle(self) is not None:
            session.ask_back()

    def _receive(self, session: Session, number: int, item: Any) -> None:
        """Take what has come of a request: how many of its tokens were cached, a new token, or its end."""
        session.has_given = True
        if isinstance(item, End):
            for request in self._open.take(number):
                session.forget(request)
                session.pages.note(request.ids)
                request.cached, request.prompt_scores = item.cached_tokens, item.prompt_logprobs or []
                if request.pool is not None:
                    request.pool.vector = item.vector
                self._open.end([request], item.reason, item.error)
        elif (known := self._open.get(number)) is None:
            return
        elif isinstance(item, int):
            known.cached = item
        else:
            known.ids.append(item[0])
            known.sequence.length, known.deaths = len(known.ids) - 1, 0
            known.first_token = known.first_token or time.monotonic()
            self._totals.new_tokens += 1
            known.generation.mailbox.put(item)

    def _heed(self, session: Session, message: object) -> None:
        """Do what a message of the process asks for."""
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, Ready):
            self._begin(session, message)
        elif isinstance(message, Failed):
            session.error, session.failure = message.error, f"{type(message.error).__name__}: {message.error}"
        elif isinstance(message, Lost):
            session.failure = message.failure
        elif isinstance(message, Given):
            self._give(session, self._open.take(message.number))
        elif isinstance(message, Begun):
            session.begun.update(message.numbers)

    def _begin(self, session: Session, ready: Ready) -> None:
        """Send the requests that have waited for the process."""
        with self._changed:
            session.begin(ready)
            self._totals.last_step = time.monotonic()
            for request in self._open.all():
                session.send(request)
        if self.ready.done():
            logger.warning("%s on %s runs again", self.name, self.device)
        else:
            self.ready.set_result(ready)

    def _give(self, session: Session, given: list[Request]) -> None:
        """Give requests that have not begun to another worker."""
        for request in given:
            session.forget(request)
            request.begin_anew()
            other = self._successors.idle(self)
            refused = [] if other is not None and other.adopt(request) else self._successors.place([request])
            self._open.put_down(1 - len(refused))
            self._open.end(refused, error=self.refusal("the request was not written to its end"))
