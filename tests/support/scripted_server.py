"""A server of the standard library in a thread of the test's process, whose answers a handler makes."""

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

WAIT = 30  # seconds for what takes milliseconds


@contextmanager
def scripted_server(handler, **state):
    """Run a server with attributes that its handler reads; yield it and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(server).update(state)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(WAIT)
        server.server_close()
        assert not thread.is_alive()
