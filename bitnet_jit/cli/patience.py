"""A line on stderr for users who wait, once the wait is long enough to wonder.

The status of rich has no delay, draws from a thread 12 times per second while we measure, and writes nothing where
stderr is no terminal. A timer that writes once does what is needed here.
"""

import contextlib
import os
import sys
import threading
import time
from types import TracebackType
from typing import Self

SECONDS = 2.0  # before the first line
PAUSE = 2.0  # between lines where one cannot be written over


class Patience:
    """A context that tells what is going on, while its block runs for more than two seconds.

    On a terminal the words replace one another and vanish in the end; elsewhere each is a separate line.

    Args:
        words: what is going on; `update` changes it.
    """

    def __init__(self, words: str) -> None:
        self._words = words
        self._told = 0.0
        self._lock = threading.Lock()
        self._ended = False
        self._timer = threading.Timer(SECONDS, self._tell)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def update(self, words: str) -> None:
        """Say something else from now on."""
        self._words = words
        if self._told and (is_terminal() or time.monotonic() - self._told > PAUSE):
            self._tell()

    def end(self) -> None:
        """Say no more, and wipe the terminal's line."""
        self._timer.cancel()
        with self._lock:
            if self._told and not self._ended and is_terminal():
                write("\r\x1b[K")
            self._ended = True

    def _tell(self) -> None:
        with self._lock:
            if not self._ended:
                self._told = time.monotonic()
                write(f"\r\x1b[K{self._words} ..." if is_terminal() else f"{self._words} ...\n")


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can write over a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def write(text: str) -> None:
    """Write to stderr; a failure is no error, for then nobody could read it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
