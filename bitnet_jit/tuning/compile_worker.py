"""`python -m`: compiles what it is told on stdin, and answers on stdout; started by `compiling.py` alone."""

import os
import pickle
import sys
from typing import Any, BinaryIO

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.tuning.compiling import READY, Job, Target
from bitnet_jit.tuning.contenders import Contender, bind
from bitnet_jit.tuning.synthetic import first_shape


def main() -> None:
    """Answer jobs until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what compilers print is no answer
    target: Target = pickle.load(sys.stdin.buffer)
    if target is not None:
        from bitnet_jit.kernels.triton.device.offline import compile_for

        compile_for(target)  # type: ignore[arg-type]
    answer(READY, answers)
    while (job := next_job()) is not None:
        answer(reason_against(job, target), answers)


def answer(words: str | None, answers: BinaryIO) -> None:
    """Send an answer."""
    pickle.dump(words, answers)
    answers.flush()


def next_job() -> Job | None:
    """The next job, or None where there will be no more."""
    try:
        job: Job = pickle.load(sys.stdin.buffer)
        return job
    except EOFError:
        return None


def reason_against(job: Job, target: Target) -> str | None:
    """Compile a job: None, or why that is not possible."""
    try:
        compile_job(*job, on_gpu=target is not None)
    except Exception as error:  # compilers have errors of their own
        return f"{type(error).__name__}: {error}"
    return None


def compile_job(problem: Any, name: str, config: Any, on_gpu: bool) -> None:
    """Compile a problem with the kernel of that name and a config into its backend's disk cache."""
    kernel = next(kernel for kernel in registry.kernels(problem.op) if kernel.name == name)
    if not on_gpu:
        bind(problem, Contender(kernel, config), torch.device("cpu"))
    elif name.startswith("triton."):
        from bitnet_jit.ops.triton_tensors import compile_only

        compile_only(kernel.bind(problem, config), problem, first_shape(problem))


if __name__ == "__main__":
    main()
