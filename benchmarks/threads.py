"""The threads that limits run on: plain Python ones, since their loops hold no lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MAX_CALLS = 4  # of a limit, in a turn: it runs for milliseconds


class Threads:
    """Runs a function on several parts at once; `set_threads` is a contender's."""

    def __init__(self) -> None:
        self.count = 1
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def set_threads(self, threads: int) -> None:
        self.count = threads

    def run(self, function: Callable[..., int], *arguments: object) -> int:
        """The sum of `function(part, *arguments)` over the parts 0 .. count - 1."""
        jobs = [self._pool.submit(function, part, *arguments) for part in range(1, self.count)]
        return function(0, *arguments) + sum(job.result() for job in jobs)
