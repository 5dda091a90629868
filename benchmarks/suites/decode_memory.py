"""The peak of memory of a contender of bench_decode.py.

On a CPU it is that of a process of its own, `python -m benchmarks.suites.decode_memory SHAPE HEAD CONTENDER TOKENS
THREADS`: in one that has built other models, memory that these gave back would be used again and not be counted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

import torch

from benchmarks.harness.models.bounds import resident_bytes
from benchmarks.harness.models.memory import with_peak
from benchmarks.harness.models.report import Peak
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.turns import Model
from benchmarks.suites.decode_contenders import CONTENDERS

SEED = 4


def draw_tokens(vocab_size: int, batch: int, count: int) -> torch.Tensor:
    """Draw token ids (batch, count)."""
    return torch.randint(vocab_size, (batch, count), generator=torch.Generator().manual_seed(SEED))


def first_run(
    make: Callable[[], Model], shape: ModelShape, device: str, head: str, tokens: int, threads: int
) -> tuple[Model, Peak | None]:
    """Build a contender and have it read a prompt; return it, and the peak where the system tells it."""
    config = shape.open_reader().config

    def work() -> Model:
        model = make()
        model.set_threads(threads)
        model.read(draw_tokens(config.vocab_size, 1, tokens))
        return model

    model, peak = with_peak(work, device)
    held = round(resident_bytes(config, model.storage, tokens))
    return model, None if peak is None else Peak(shape.name, head, model.name, tokens, peak, held)


def measure_alone(shape: ModelShape, head: str, name: str, tokens: int, threads: int) -> Peak | None:
    """Return the peak of a contender on the CPU, measured in a process of its own.

    Raises:
        ValueError: the process failed; the error ends with its last line.
    """
    module, words = "benchmarks.suites.decode_memory", [shape.name, head, name, str(tokens), str(threads)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run([sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(f"the process that measures memory failed: {(ended.stderr.strip() or '?').splitlines()[-1]}")
    fields = json.loads(ended.stdout.splitlines()[-1])
    return None if fields is None else Peak(**fields)


def main(shape: str, head: str, name: str, tokens: str, threads: str) -> None:
    """Measure a contender in this process, and print the peak as JSON."""
    make = CONTENDERS[name](SHAPES[shape], "cpu", head)
    with torch.inference_mode():
        model, peak = first_run(make, SHAPES[shape], "cpu", head, int(tokens), int(threads))
    model.close()
    print(json.dumps(None if peak is None else asdict(peak)))


if __name__ == "__main__":
    main(*sys.argv[1:])
