"""The roofline of a device: what it does at most, measured once and kept beside the tuned choices."""

import hashlib
import json
import logging
import math
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from bitnet_jit.devices.kinds import fingerprint, kind_of
from bitnet_jit.devices.threads import get_num_threads
from bitnet_jit.errors import BitNetError
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Rates
from bitnet_jit.ops import calls
from bitnet_jit.system.files import write_beside_and_rename
from bitnet_jit.system.reading import read_json
from bitnet_jit.tuning.work import Work

logger = logging.getLogger(__name__)

MAX_BYTES = 2**16  # of a file


class Roofline(Rates):
    """The rates of one device, and what they allow (the roofline model, doi 10.1145/1498765.1498785)."""

    def min_microseconds(self, work: Work) -> float:
        """Return the time that a call takes at least."""
        return 1e6 * max(work.num_bytes / self.bytes, self._arithmetic(work))

    def bound(self, work: Work) -> str:
        """Return what limits such a call: "memory" or "arithmetic"."""
        return "arithmetic" if self._arithmetic(work) > work.num_bytes / self.bytes else "memory"

    def _arithmetic(self, work: Work) -> float:
        return work.num_operations / self.operations if self.operations else 0.0


def roofline(device: torch.device) -> Roofline:
    """Return a device's roofline, from disk where it has been measured before; measuring takes some seconds."""
    return measured(device, get_num_threads() if kind_of(device).times_alone else 0)


@cache
def measured(device: torch.device, threads: int) -> Roofline:
    """Return the roofline of a device; that of a CPU is of so many threads."""
    key = f"{fingerprint(device)}/{threads}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    name = f"roofline-{device.type}-{digest}.json"
    try:
        return parse(read_json(calls.DISPATCHER.cache.folder.parent / name, MAX_BYTES))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        logger.info("%s is passed over: %s", name, error)
    rates = measure_rates(device, threads)
    keep(name, {"device": key, **asdict(rates)})
    return Roofline(**asdict(rates))


def measure_rates(device: torch.device, threads: int) -> Rates:
    """Measure what a device does at most, by the first backend that can."""
    for backend in registry.serving(device.type):
        if backend.measure_rates is not None:
            with kind_of(device).current(device):
                return backend.measure_rates(device, threads)
    raise BitNetError(f"no backend that is registered measures what {device.type} does at most")


def parse(entry: Any) -> Roofline:
    """Return what a file tells. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged."""
    known = Roofline(float(entry["bytes"]), float(entry["operations"]), str(entry.get("origin", Rates.origin)))
    if not (0 < known.bytes < math.inf and 0 <= known.operations < math.inf):
        raise ValueError(f"it says {entry}")
    return known


def keep(name: str, entry: dict[str, object]) -> None:
    """Write what was measured, if that is possible."""
    try:
        file = calls.DISPATCHER.cache.folder.parent / name
        write_beside_and_rename(file, (json.dumps(entry, indent=1) + "\n").encode())
    except OSError as error:
        logger.info("%s cannot be written: %s", name, error)
