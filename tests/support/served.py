"""A server that runs in a thread of the test's process."""

import logging
import threading
import time
from contextlib import contextmanager

from bitnet_jit.server.connections import make_server

WAIT = 30  # seconds for what takes milliseconds


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level):
        super().__init__(level)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def wait_until(condition, seconds=WAIT):
    """Wait for a condition that comes true soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def running(app, **options):
    """Run a server in a thread; yield its address and the server."""
    server = make_server(app, "127.0.0.1", 0, "critical", **options)
    thread = threading.Thread(target=server.run)
    log = Records(logging.ERROR)
    logging.getLogger("asyncio").addHandler(log)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(WAIT)
        logging.getLogger("asyncio").removeHandler(log)
        assert not thread.is_alive()
        assert log.messages == [], "such as exceptions of tasks that nobody asked for"
