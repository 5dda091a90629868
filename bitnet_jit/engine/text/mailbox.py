"""`Mailbox`: where a worker leaves things for a thread or an event loop that waits for them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Condition
from typing import Any


@dataclass
class Mailbox:
    """What a worker hands over to the one who waits, be it a thread or an event loop.

    A worker never waits here. Who waits in an event loop is woken in that loop.
    """

    items: deque[Any] = field(default_factory=deque)
    changed: Condition = field(default_factory=Condition)
    wake: Callable[[], None] | None = None

    def put(self, item: Any) -> None:
        """Add an item and wake who waits."""
        with self.changed:
            self.items.append(item)
            wake, self.wake = self.wake, None
            self.changed.notify()
        if wake is not None:
            wake()

    def take(self, timeout: float | None = None) -> Any:
        """Wait for the next item, in the only thread that reads. Raises TimeoutError where none has come in time."""
        if self.items:  # a text that nobody read while it was written has hundreds
            return self.items.popleft()
        with self.changed:
            if not self.changed.wait_for(lambda: self.items, timeout):
                raise TimeoutError(f"timeout: nothing has come within {timeout} s")
            return self.items.popleft()

    async def take_async(self) -> Any:
        """Wait for the next item in an event loop."""
        loop = asyncio.get_running_loop()
        while True:
            with self.changed:
                if self.items:
                    return self.items.popleft()
                arrived = loop.create_future()
                self.wake = partial(wake_in, loop, arrived)
            await arrived


def wake_in(loop: asyncio.AbstractEventLoop, arrived: "asyncio.Future[None]") -> None:
    """Set a future in its loop, from any thread; a loop that is closed waits for nothing."""

    def set_result() -> None:
        if not arrived.done():
            arrived.set_result(None)

    try:
        loop.call_soon_threadsafe(set_result)
    except RuntimeError:  # the loop is closed, and its caller gone with it
        return
