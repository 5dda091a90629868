"""Compile jobs from stdin, and answer on stdout: a process that `compiling.py` alone starts, by `python -m`."""

import os
import pickle
import sys
from typing import Any, BinaryIO

from bitnet_jit.kernels import registry
from bitnet_jit.tuning.compiling import READY, Job, Targets
from bitnet_jit.tuning.synthetic import operands_of


def main() -> None:
    """Answer jobs until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what compilers print is no answer
    targets: Targets = pickle.load(sys.stdin.buffer)
    for name, target in targets.items():
        offline = registry.BACKENDS[name].offline
        assert offline is not None
        offline.prepare(target)
    answer(READY, answers)
    while (job := next_job()) is not None:
        answer(failure_of(job), answers)


def answer(words: str | None, answers: BinaryIO) -> None:
    """Send an answer."""
    pickle.dump(words, answers)
    answers.flush()


def next_job() -> Job | None:
    """Return the next job, or None where there will be no more."""
    try:
        job: Job = pickle.load(sys.stdin.buffer)
        return job
    except EOFError:
        return None


def failure_of(job: Job) -> str | None:
    """Compile a job; return None, or why that is not possible."""
    try:
        compile_job(*job)
    except Exception as error:  # compilers have errors of their own
        return f"{type(error).__name__}: {error}"
    return None


def compile_job(problem: Any, name: str, config: Any) -> None:
    """Compile a problem with the kernel of that name and a config into its backend's disk cache."""
    kernel = next(kernel for kernel in registry.kernels(problem.op) if kernel.name == name)
    if (offline := registry.BACKENDS[kernel.backend].offline) is not None:
        offline.compile(kernel.bind(problem, config), operands_of(problem))


if __name__ == "__main__":
    main()
