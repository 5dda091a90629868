"""Work that no signal and no fork may interrupt: to compile a kernel, to load one, to import a compiler.

Python runs signal handlers in the main thread, wherever it happens to be. A KeyboardInterrupt that lands inside Numba
or llvmlite leaves half-linked modules and held locks behind. So the main thread hands such work to a separate thread
and waits: an exception of a handler is kept until the work is done, and raised then. A fork waits, too, since a child
would inherit the locks of a thread that it does not have.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Shield:
    """One lock for all shielded work of a process: nothing of it runs at the same time, or while the process forks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=lambda: self._lock.acquire(),
                after_in_parent=lambda: self._lock.release(),
                after_in_child=self._renew,
            )

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return function(*args, **kwargs), called while the lock is held."""
        with self._lock:
            return function(*args, **kwargs)


SHIELD = Shield()


def shielded(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return function(*args, **kwargs), which no exception of a signal handler enters.

    Raises:
        KeyboardInterrupt: there was a Ctrl-C meanwhile, or any other exception of a signal handler. The work is done by
            then, and its result is dropped; after a second such exception the work is left to end by itself.

    >>> shielded(int, "3")
    3
    """
    if threading.current_thread() is not threading.main_thread():
        return SHIELD.run(function, *args, **kwargs)  # no signal is handled here
    work: Future[R] = Future()
    context = copy_context()

    def run() -> None:
        try:
            work.set_result(context.run(lambda: SHIELD.run(function, *args, **kwargs)))
        except BaseException as error:  # of any kind: it belongs to the caller
            work.set_exception(error)

    try:
        threading.Thread(target=run, name="bitnet_jit-shielded").start()
    except RuntimeError:  # no thread can be started: there are too many, or the interpreter is ending
        run()
    return outcome(work)


def outcome(work: "Future[R]") -> R:
    """Wait for work to end, and return its result or raise its error; an exception that ends the wait comes first."""
    try:
        work.exception()
    except BaseException:
        work.exception()
        raise
    return work.result()
