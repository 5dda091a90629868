"""What a device can do at most, measured once and kept beside what tuning found: reads of memory, and int8 products."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from bitnet_jit.devices.fingerprint import fingerprint
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls
from bitnet_jit.runtime.threads import get_num_threads
from bitnet_jit.system.files import write_beside_and_rename
from bitnet_jit.system.reading import read_json
from bitnet_jit.tuning.work import Work

logger = logging.getLogger(__name__)

READ_BYTES = {"cpu": 1 << 29, "cuda": 1 << 30}  # more than caches hold
DOT4_STEPS, AMX_STEPS = 2_000_000, 200_000  # several milliseconds
ATTEMPTS = 5  # of which the fastest counts
MAX_BYTES = 2**16  # of a file


@dataclass(frozen=True)
class Roofline:
    """Of one device, in bytes read and int8 operations a second; a multiply-add counts as two.

    `operations` is 0 where no kernel of ours can measure it.
    """

    bytes: float
    operations: float

    def min_microseconds(self, work: Work) -> float:
        """What a call takes at least, by the roofline model (doi 10.1145/1498765.1498785)."""
        return 1e6 * max(work.num_bytes / self.bytes, self._arithmetic(work))

    def bound(self, work: Work) -> str:
        """What limits such a call: "memory" or "arithmetic"."""
        return "arithmetic" if self._arithmetic(work) > work.num_bytes / self.bytes else "memory"

    def _arithmetic(self, work: Work) -> float:
        return work.num_operations / self.operations if self.operations else 0.0


def roofline(device: torch.device) -> Roofline:
    """Of a device, from disk where they have been measured before; measuring takes some seconds."""
    return measured(device, get_num_threads() if device.type == "cpu" else 0)


@cache
def measured(device: torch.device, threads: int) -> Roofline:
    """The same; a CPU's are those of so many threads."""
    key = f"{fingerprint(device)}/{threads}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    name = f"roofline-{device.type}-{digest}.json"
    try:
        return parse(read_json(calls.DISPATCHER.cache.folder.parent / name, MAX_BYTES))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        logger.info("%s is passed over: %s", name, error)
    made = measure_gpu(device) if device.type == "cuda" else measure_cpu(threads)
    keep(name, {"device": key, **asdict(made)})
    return made


def parse(found: Any) -> Roofline:
    """What a file tells. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged."""
    known = Roofline(float(found["bytes"]), float(found["operations"]))
    if not (0 < known.bytes < math.inf and 0 <= known.operations < math.inf):
        raise ValueError(f"it says {found}")
    return known


def keep(name: str, entry: dict[str, object]) -> None:
    """Write what was measured, if that is possible."""
    try:
        file = calls.DISPATCHER.cache.folder.parent / name
        write_beside_and_rename(file, (json.dumps(entry, indent=1) + "\n").encode())
    except OSError as error:
        logger.info("%s cannot be written: %s", name, error)


def measure_cpu(threads: int) -> Roofline:
    """Reads by one and by many streams, the dot product that our kernels use, and AMX where it is."""
    if reason := registry.absent_reason("numba"):
        logger.info("no peak of int8 products: %s", reason)
        buffer = torch.ones(READ_BYTES["cpu"] // 8, dtype=torch.int64, device="cpu")
        return Roofline(buffer.nbytes / min_seconds(lambda: buffer.sum()), 0.0)
    from bitnet_jit.kernels.numba import roofline as loops
    from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason

    parts = torch.ones(READ_BYTES["cpu"] // 8, dtype=torch.int64, device="cpu").numpy()
    pieces = [parts[parts.size * i // threads : parts.size * (i + 1) // threads] for i in range(threads)]
    shapes = loops.tile_shapes()
    with ThreadPoolExecutor(threads) as pool:

        def rate(amount: float, run: Callable[[int], int]) -> float:
            return amount / min_seconds(lambda: list(pool.map(run, range(threads))))

        reads = [
            rate(parts.nbytes, lambda i, reader=reader: reader(pieces[i], 1))  # type: ignore[misc]
            for reader in (loops.read_one_stream, loops.read_many_streams)
        ]
        dot4 = rate(threads * DOT4_STEPS * loops.dot4_operations(), lambda _: loops.dot4_loop(DOT4_STEPS))
        if amx_unsupported_reason():
            return Roofline(max(reads), dot4)
        amx = rate(threads * AMX_STEPS * loops.AMX_OPERATIONS, lambda _: loops.amx_loop(shapes.ctypes.data, AMX_STEPS))
    return Roofline(max(reads), max(dot4, amx))


def min_seconds(run: Callable[[], object]) -> float:
    """Of some calls after a first one, which compiles."""
    run()
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_gpu(device: torch.device) -> Roofline:
    """Reads of a gigabyte, and products of tiles on every multiprocessor."""
    with calls.on(device):
        if reason := registry.backend_unsupported_reason("triton", device.type):
            logger.info("no peak of int8 products: %s", reason)
            buffer = torch.ones(READ_BYTES["cuda"] // 4, dtype=torch.int32, device=device)
            return Roofline(buffer.nbytes / min_seconds(lambda: buffer.sum().item()), 0.0)
        from bitnet_jit.kernels.triton import roofline as kernels

        words = torch.ones(READ_BYTES["cuda"] // 4, dtype=torch.int32, device=device)
        programs = words.numel() // kernels.WORDS
        sums = torch.empty(programs, dtype=torch.int32, device=device)

        def read() -> None:
            kernels.read_kernel[(programs,)](words, sums, kernels.WORDS, num_warps=8)
            torch.cuda.synchronize()

        bytes_a_second = words.nbytes / min_seconds(read)
        tiles = kernels.WAVES * torch.cuda.get_device_properties(device).multi_processor_count
        tile = torch.ones(kernels.TILE, kernels.DEPTH, dtype=torch.int8, device=device)
        products = torch.empty(tiles, kernels.TILE, kernels.TILE, dtype=torch.int32, device=device)

        def multiply() -> None:
            kernels.product_kernel[(tiles,)](
                tile, tile, products, kernels.TILE, kernels.DEPTH, kernels.STEPS, num_warps=4
            )
            torch.cuda.synchronize()

        operations = 2 * tiles * kernels.TILE**2 * kernels.DEPTH * kernels.STEPS
        return Roofline(bytes_a_second, operations / min_seconds(multiply))
