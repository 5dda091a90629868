"""The start of a model in a process of its own: imports, loading from files in the page cache, the first token.

`python -m benchmarks.harness.models.start FOLDER DEVICE HEAD` does it once, and prints the seconds as JSON.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RUNS = 3  # the first one compiles, tunes and fills the page cache, and does not count
PROMPT = list(range(1, 17))


@dataclass(frozen=True)
class Start:
    """Seconds of a start.

    Attributes:
        imports: of torch and the package.
        load: `bitnet_jit.load`, to weights on the device.
        first_token: `generate(max_new_tokens=1)` of 16 tokens, the first call of the process.
    """

    imports: float
    load: float
    first_token: float

    @property
    def total(self) -> float:
        """Return the seconds from the call of `load` to the first token."""
        return self.load + self.first_token


def measure_start(folder: Path, device: str, head: str) -> Start:
    """Return the fastest start of some in processes of their own, after one that does not count.

    Raises:
        RuntimeError: a process failed; the error ends with its last line.
    """
    command = [sys.executable, "-m", "benchmarks.harness.models.start", str(folder), device, head]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    starts = []
    for _ in range(RUNS):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"the process that starts failed: {ended.stderr.strip().splitlines()[-1]}")
        starts.append(Start(**json.loads(ended.stdout.splitlines()[-1])))
    return min(starts[1:], key=lambda start: start.total)


def start_once(folder: str, device: str, head: str) -> Start:
    """Import, load, and write one token."""
    begin = time.perf_counter()
    import torch

    import bitnet_jit

    imported = time.perf_counter()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if head == "checkpoint":
        decoder = bitnet_jit.load(folder, device, dtype)
    else:
        decoder = bitnet_jit.load(folder, device, dtype, head=head)
    loaded = time.perf_counter()
    decoder.generate(PROMPT, max_new_tokens=1)
    return Start(imported - begin, loaded - imported, time.perf_counter() - loaded)


if __name__ == "__main__":
    print(json.dumps(asdict(start_once(*sys.argv[1:]))))
