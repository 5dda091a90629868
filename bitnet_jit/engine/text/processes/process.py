"""`Process`: the process of a worker, as the engine sees it: messages go in and come out, until it ends.

It is started by `python -P -m`, not forked and not spawned by multiprocessing: a fork breaks CUDA and OpenMP, and a
spawned process would run the user's script again.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
from threading import Thread
from typing import Any

from bitnet_jit.engine.text.processes.channel import Channel
from bitnet_jit.engine.text.processes.messages import Start

CHILD = "bitnet_jit.engine.text.processes.child"
THREADS = ("OMP_NUM_THREADS", "BITNET_JIT_NUM_THREADS")  # of torch, and of our kernels
END_S = 10.0  # for a process that reads and writes no more; then it is killed


class Process:
    """A process that loads a model and serves it.

    Args:
        start: what it is to load.

    Raises:
        OSError: the system starts no more processes.
    """

    def __init__(self, start: Start) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", CHILD],  # -P: modules of the working directory are none of ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ_of(start),
            start_new_session=True,  # Ctrl-C is for the engine's process
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin)
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sender = Thread(target=self._send, name=f"{start.name} sender", daemon=True)
        self._sender.start()
        self.post(start)

    @property
    def pid(self) -> int:
        """Return its number in the system."""
        return self._process.pid

    def post(self, message: Any) -> None:
        """Send a message without waiting; one to a process that has ended is lost."""
        self._outgoing.put(message)

    def receive(self) -> Any:
        """Wait for the next message. Raises EOFError where the process sends no more."""
        return self._channel.receive()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()

    def end(self) -> str:
        """Wait for its end, free what it held here, and return in words how it ended; called by who receives."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self.post(None)
        self._sender.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it has not read is lost with it
                assert pipe is not None
                pipe.close()
        return exit_words(code)

    def _send(self) -> None:
        """Send what is posted, until there is nobody to read it."""
        while (message := self._outgoing.get()) is not None:
            try:
                self._channel.send(message)
            except EOFError:
                return


def environ_of(start: Start) -> dict[str, str]:
    """Return the environment of a process: it finds the modules that this one finds, and has so many threads.

    They are not set by torch.set_num_threads: steps of a small model took half as long again behind it.
    """
    path = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": path} | dict.fromkeys(THREADS, str(start.threads))


def exit_words(code: int) -> str:
    """Return how a process ended.

    >>> exit_words(1), exit_words(-9)
    ('exit code 1', 'exit code -9, SIGKILL')
    """
    names = {-one.value: f", {one.name}" for one in signal.Signals}
    return f"exit code {code}{names.get(code, '')}"
