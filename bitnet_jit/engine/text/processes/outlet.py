"""`Outlet`: what a process tells its engine, gathered by all of its threads and sent by one."""

import logging
import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from threading import Condition, Event, Thread
from typing import Any

from bitnet_jit.engine.text.generation import End
from bitnet_jit.engine.text.processes.channel import Channel
from bitnet_jit.engine.text.processes.messages import Update
from bitnet_jit.engine.text.stats import ModelStats
from bitnet_jit.errors import RequestFailed

BEAT_S = 0.25  # between two looks whether steps went on that gave no tokens, as in a long prompt

SENT_S = 5.0  # for a message, where the engine reads none


class Outlet:
    """Sends what has been put into it, one message for all that has come meanwhile.

    Args:
        channel: where to.

    Attributes:
        stats: tells what the worker does, once there is one.
        taken: requests that were taken.
    """

    def __init__(self, channel: Channel) -> None:
        self.stats: Callable[[], ModelStats] | None = None
        self.taken = 0
        self._channel = channel
        self._items: deque[Any] = deque()  # its methods are atomic: who adds needs no lock
        self._changed = Condition()
        self._ends = False
        self._thread = Thread(target=self._send, name="bitnet-jit outlet", daemon=True)
        self._thread.start()

    def add(self, *items: Any) -> None:
        """Take items of one message, sent after `flush`: a worker that woke the sender for each token would wait."""
        self._items.extend(items)

    def flush(self) -> None:
        """Have all that was added sent."""
        if self._items:
            with self._changed:
                self._changed.notify()

    def put(self, *items: Any) -> None:
        """Take items of one message, and have them sent; called by any thread, which waits for nobody."""
        self.add(*items)
        self.flush()

    def put_through(self, *items: Any) -> None:
        """Take items, and wait until they have been sent with all that came before: the process may end behind them."""
        sent = Event()
        self.put(*items, sent)
        sent.wait(SENT_S)

    def finish(self) -> None:
        """Wait until all has been sent; nothing may come behind."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _send(self) -> None:
        """Send until `finish`, or until nobody reads any more."""
        told: ModelStats | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ends, BEAT_S)
                items = [self._items.popleft() for _ in range(len(self._items))]
                ends = self._ends
            stats = None if self.stats is None else self.stats()
            news = [item for item in items if not isinstance(item, Event)]
            try:
                if news or stats != told:
                    self._channel.send(Update(news, stats, self.taken))
            except EOFError:
                return
            told = stats
            for item in items:
                if isinstance(item, Event):
                    item.set()
            if ends:
                return


class Handle:
    """What stands for a caller's handle in a process of a worker: the mailbox of one request.

    The last token of a text is sent together with its end, so that no process ends between them.

    Args:
        number: of the request.
        outlet: where its pieces go.
        cached: returns how many tokens of its prompt were cached; asked at the first token.

    Attributes:
        is_planned: whether the engine was told that it is in a step.
    """

    def __init__(self, number: int, outlet: Outlet, cached: Callable[[], int]) -> None:
        self._number, self._outlet, self._cached = number, outlet, cached
        self._before: list[Any] = []
        self._has_begun = self.is_planned = False

    @property
    def mailbox(self) -> "Handle":
        """Return itself: workers put pieces into the mailbox of a handle."""
        return self

    def put(self, item: Any) -> None:
        """Take a piece (token, logprobs, whether it is the last one), or the end; `Outlet.flush` has it sent."""
        items: list[Any] = []
        if isinstance(item, End):
            item = item if item.error is None else replace(item, error=portable(item.error))
            items, self._before = self._before, []
        elif not self._has_begun:
            self._has_begun = True
            items.append((self._number, self._cached()))
        items.append((self._number, item))
        if isinstance(item, End) or not item[-1]:
            self._outlet.add(*items)
        else:
            self._before = items


class Records(logging.Handler):
    """Puts log records into an outlet, their arguments and tracebacks made text."""

    def __init__(self, outlet: Outlet, level: int) -> None:
        super().__init__(level)
        self._outlet = outlet
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        message = record.getMessage()
        if record.exc_info:
            logging.Formatter().format(record)  # keeps the traceback as text
        plain = {"msg": message, "message": message, "args": None, "exc_info": None}
        self._outlet.put(logging.makeLogRecord({**record.__dict__, **plain}))


def portable(error: Exception) -> Any:
    """Return an error as another process can read it: itself, or its words.

    >>> portable(ValueError("bad")), portable(type("Odd", (Exception,), {})("seen here alone"))
    (ValueError('bad'), RequestFailed("Odd('seen here alone')"))
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when it is copied
        return RequestFailed(repr(error))
    return error
