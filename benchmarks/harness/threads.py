"""Threads on which limits run: plain Python ones, since the loops of limits hold no lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MAX_CALLS = 4  # of a limit per turn: it runs for milliseconds


class Threads:
    """Runs a function on several parts at once; `set_threads` is that of a contender."""

    def __init__(self) -> None:
        self.count = 1
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def set_threads(self, threads: int) -> None:
        self.count = threads

    def run(self, function: Callable[..., int], *arguments: object) -> int:
        """Return the sum of `function(part, *arguments)` over the parts 0 .. count - 1."""
        jobs = [self._pool.submit(function, part, *arguments) for part in range(1, self.count)]
        return function(0, *arguments) + sum(job.result() for job in jobs)
