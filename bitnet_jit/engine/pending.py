"""`Pending`: work in a thread of its own, which an event loop awaits and a thread asks for its result."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from threading import Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Coroutine[Any, Any, T], Generic[T]):
    """Work that has begun.

    It is a coroutine for asyncio, so that `await`, `asyncio.run`, `gather` and `create_task` take it. A task that is
    cancelled waits no more; the work goes on to its end.

    Args:
        work: called once, in a thread.
        name: of the thread.

    >>> Pending(lambda: 6 * 7, "sum").result()
    42
    >>> asyncio.run(Pending(lambda: 6 * 7, "sum"))
    42
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()  # so that nobody who waits can cancel it for the others
        self._waiting: Coroutine[Any, Any, T] | None = None
        Thread(target=self._work, args=(work,), name=name).start()

    def result(self, timeout: float | None = None) -> T:
        """Wait in a thread for the result; raise the error of the work, or TimeoutError after so many seconds."""
        return self._future.result(timeout)

    def done(self) -> bool:
        """Return whether the work has ended."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def send(self, value: Any) -> Any:
        """Go on waiting; called by an event loop."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in who waits; called by an event loop."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """Wait no more; the work goes on."""
        if self._waiting is not None:
            self._waiting.close()

    def _begun(self) -> Coroutine[Any, Any, T]:
        """Return the coroutine that waits in an event loop, made when a loop first asks."""
        if self._waiting is None:
            self._waiting = self._wait()
        return self._waiting

    async def _wait(self) -> T:
        return await asyncio.wrap_future(self._future)

    def _work(self, work: Callable[[], T]) -> None:
        try:
            result = work()
        except BaseException as error:  # whatever it is, it belongs to those who wait
            self._future.set_exception(error)
        else:
            self._future.set_result(result)
