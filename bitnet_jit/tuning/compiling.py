"""Compile in several processes at once, into the disk caches from which the process that tunes takes kernels.

The processes are started by `python -P -m`, not forked and not spawned by multiprocessing: a fork breaks CUDA and
OpenMP, and a spawned process would run the user's script again. Jobs and answers are pickles in pipes; a library
such as loky would be a dependency more for what two pipes do.
"""

import logging
import os
import pickle
import queue
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config
from bitnet_jit.problem import Problem
from bitnet_jit.system.cores import available_cores

logger = logging.getLogger(__name__)

READY = "ready"  # the first answer of a process
WORKER = "bitnet_jit.tuning.compile_worker"
Targets = dict[str, Any]  # of each backend that compiles for a target, by its name
Job = tuple[Problem, str, Config]


class Process:
    """A process that compiles one job after another."""

    def __init__(self, targets: Targets) -> None:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER],  # -P: modules of the working directory are none of ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,  # Ctrl-C is for the process that tunes
        )
        self.starts = self._ask(targets) == READY

    def compile(self, job: Job) -> str | None:
        """Compile a job; return None, or why it cannot be compiled."""
        return self._ask(job)

    def _ask(self, message: Any) -> str | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
            answer: str | None = pickle.load(self._process.stdout)
            return answer
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):  # ValueError: `end` has closed the pipes
            return "the compiler's process ended"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Compilers:
    """A pool of such processes, each started when there is work for it.

    Args:
        targets: what backends compile for (see `kernels.backend.Offline`); none for the CPU.
        processes: at most so many; None: one per core.
    """

    def __init__(self, targets: Targets | None = None, processes: int | None = None) -> None:
        self._targets = targets or {}
        self._threads = ThreadPoolExecutor(processes or available_cores(), thread_name_prefix="bitnet_jit-compile")
        self._idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self._all: list[Process] = []
        self._jobs: dict[Job, Future[str | None]] = {}
        self._closed = self._helpless = False

    def submit(self, job: Job) -> "Future[str | None]":
        """Compile a problem with the kernel of that name and a config: None, or why not. The same job is done once."""
        if job not in self._jobs:
            self._jobs[job] = self._threads.submit(self._run, job)
        return self._jobs[job]

    def _run(self, job: Job) -> str | None:
        _, kernel, _ = job
        if self._helpless or registry.BACKENDS[kernel.partition(".")[0]].offline is None:
            return None  # whoever binds the kernel compiles it
        try:
            process = self._take()
        except OSError as error:
            self._do_without(str(error))
            return None
        if not process.starts:
            self._do_without(f"{sys.executable} -P -m {WORKER} does not start")
            return None
        reason = process.compile(job)
        if process.alive:
            self._idle.put(process)
        return reason

    def _do_without(self, reason: str) -> None:
        logger.info("kernels are compiled without other processes: %s", reason)
        self._helpless = True

    def _take(self) -> Process:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            process = Process(self._targets)
            self._all.append(process)
            if self._closed:
                process.end()
            return process

    def close(self) -> None:
        """End all processes; what is not compiled yet stays so."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.end()
        self._threads.shutdown()

    def __enter__(self) -> "Compilers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
