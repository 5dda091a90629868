"""The start of a model in a process of its own: imports, loading from files in the page cache, the first two tokens.

`python -m benchmarks.harness.models.start FOLDER DEVICE HEAD` does it once, and prints the seconds as JSON; with a
fourth word, seconds, it tunes the model first for so long at most, and that start does not count.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

RUNS = 3  # after the one that tunes; the first one compiles and fills the page cache, and does not count
PROMPT = list(range(1, 17))
TUNED_ROWS = (1, len(PROMPT))
TUNE_SECONDS = 120.0  # at most


@dataclass(frozen=True)
class Start:
    """Seconds of a start.

    Attributes:
        imports: of torch and the package.
        load: `bitnet_jit.load`, to weights on the device.
        first_token: of a prompt of 16 tokens, the first call of the process.
        second_token: the first decode step, which a GPU captures.
    """

    imports: float
    load: float
    first_token: float
    second_token: float

    @property
    def total(self) -> float:
        """Return the seconds from the call of `load` to the second token."""
        return self.load + self.first_token + self.second_token


def measure_start(folder: Path, device: str, head: str) -> Start:
    """Return the fastest start of some in processes of their own, after one that tunes and one that does not count.

    Raises:
        RuntimeError: a process failed; the error ends with its last line.
    """
    command = [sys.executable, "-m", "benchmarks.harness.models.start", str(folder), device, head]
    in_process([*command, str(TUNE_SECONDS)])
    starts = [in_process(command) for _ in range(RUNS)]
    return min(starts[1:], key=lambda start: start.total)


def in_process(command: list[str]) -> Start:
    """Run a command that prints a start."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a Python that was started before finds its modules compiled
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"the process that starts failed: {ended.stderr.strip().splitlines()[-1]}")
    return Start(**json.loads(ended.stdout.splitlines()[-1]))


def start_once(folder: str, device: str, head: str, tune_seconds: str = "") -> Start:
    """Import, load, and write two tokens; tune in between for some seconds where they are given."""
    begin = time.perf_counter()
    import torch

    import bitnet_jit

    imported = time.perf_counter()
    decoder = bitnet_jit.load(folder, device, torch.float32 if device == "cpu" else torch.bfloat16, head=head)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    loaded = time.perf_counter()
    if tune_seconds:
        bitnet_jit.autotune(decoder, TUNED_ROWS, budget_seconds=float(tune_seconds), progress=False)
    first, second = (next_seconds(tokens) for tokens in [decoder.stream(PROMPT, max_new_tokens=2)] * 2)
    return Start(imported - begin, loaded - imported, first, second)


def next_seconds(tokens: Any) -> float:
    """Return the time to the next token."""
    begin = time.perf_counter()
    if len(list(islice(tokens, 1))) != 1:
        raise RuntimeError("the text ended before its second token")
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(json.dumps(asdict(start_once(*sys.argv[1:]))))
