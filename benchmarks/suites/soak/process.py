"""The server of a soak: a process, what it holds, and how it ends."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

WAIT = 60.0  # seconds for its end
ADDRESS = re.compile(r"running on (http://\S+)")


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment.

    Attributes:
        seconds: since the load began.
        rss_mb: resident memory, 10^6 bytes.
        files, threads: how many are open, and run.
        done, errors: answers and errors so far.
    """

    seconds: float
    rss_mb: float
    files: int
    threads: int
    done: int
    errors: int


class Server:
    """`bitnet-jit serve` as a process.

    Attributes:
        address: where it listens.
        log: the lines that it wrote.
    """

    def __init__(self, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "bitnet_jit", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.log: list[str] = []
        self.address = ""
        for line in self.process.stderr:
            self.log.append(line)
            if match := ADDRESS.search(line):
                self.address = match[1]
                break
        else:
            raise RuntimeError(f"the server has ended: {''.join(self.log)}")
        self._reader = Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def held(self) -> tuple[float, int, int]:
        """Return memory in 10^6 bytes, open files and threads; Linux tells."""
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) * 1.024e-3, len(list((folder / "fd").iterdir())), int(status["Threads"])

    def stop(self) -> int:
        """End it as a service manager does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT)
        self._reader.join(WAIT)
        return code


@contextmanager
def served(options: Sequence[str]) -> Iterator[Server]:
    """Run a server; it is killed where the block fails."""
    server = Server(options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(WAIT)
        server.process.stderr.close()
