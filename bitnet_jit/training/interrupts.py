"""Ctrl-C between two steps, not within one: half a step cannot be kept."""

import signal
import threading


class Interrupts:
    """A block within which the first Ctrl-C waits for `check`; a second one does not.

    Only the main thread hears Ctrl-C: in any other one this does nothing.

    >>> with Interrupts() as interrupts:
    ...     interrupts.check()
    """

    def __init__(self) -> None:
        self._waiting = False
        self._before: signal.Handlers | int | None | object = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupts":
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _hear(self, *_: object) -> None:
        if self._waiting:
            raise KeyboardInterrupt
        self._waiting = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a Ctrl-C."""
        if self._waiting:
            raise KeyboardInterrupt
