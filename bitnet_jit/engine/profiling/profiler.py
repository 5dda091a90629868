"""`Profiler`: all that can be measured of one model, from one place."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.devices.kinds import available_types
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.profiling.comparison import (
    Comparison,
    compare_devices,
    compare_kernels,
    compare_threads,
    sweep_sizes,
)
from bitnet_jit.engine.profiling.hot_spots import HotSpots, hot_modules, hot_ops
from bitnet_jit.engine.profiling.latency import LatencyProfile, latency_of, time_calls
from bitnet_jit.engine.profiling.leaks import LeakCheck, check_leaks
from bitnet_jit.engine.profiling.phases import PhaseClock, PhaseProfile
from bitnet_jit.engine.tensors.benchmark import WARMUP_CALLS, rows_of
from bitnet_jit.engine.tensors.infer import check_module, device_of, infer
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.cores import available_cores

MAX_CALLS = 10_000_000
MAX_ROWS = 2**24
MAX_THREADS = 4096
SIZES = (1, 4, 16, 64, 256)


class Profiler:
    """Measures a model. Every method runs it anew and returns figures with a `display()`.

    Args:
        module: as in `infer`; a decoder for `hot_ops` and `compare_kernels`.
        memory: as in `infer`.

    Raises:
        InvalidInput: module is none, or is in training mode with layers that mix rows.

    >>> profiler = Profiler(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)))
    >>> latency = profiler.latency(torch.ones(2, 8), calls=20)
    >>> latency.calls, latency.p50_ms <= latency.p99_ms
    (20, True)
    >>> sorted(part.name for part in profiler.hot_modules(torch.ones(2, 8), calls=5).parts)
    ['', '0', '1', '2']
    """

    def __init__(self, module: nn.Module, *, memory: EngineMemory = DEFAULT_MEMORY) -> None:
        check_module(module)
        self.module, self._memory = module, memory

    def latency(self, x: torch.Tensor, calls: int = 1000) -> LatencyProfile:
        """Return percentiles of single calls, behind some that warm up."""
        count = whole_number("calls", calls, 1, MAX_CALLS)
        time_calls(self.module, x, WARMUP_CALLS, self._memory)
        return latency_of(time_calls(self.module, x, count, self._memory), rows_of(x))

    @staticmethod
    def phases(
        load: Callable[[], nn.Module], x: torch.Tensor, calls: int = 100, *, memory: EngineMemory = DEFAULT_MEMORY
    ) -> PhaseProfile:
        """Return time and memory of loading a model, of its first calls, and of so many more.

        Args:
            load: returns the model; what it loads counts as the phase's memory.
            x, calls: what is run.
            memory: as in `infer`.
        """
        count = whole_number("calls", calls, 1, MAX_CALLS)
        clock, models = PhaseClock(), list[nn.Module]()

        def device() -> torch.device:
            return device_of(models[0]) or x.device

        with clock.phase("load", device):
            models.append(load())
            check_module(models[0])
        with clock.phase("warm-up", device):
            time_calls(models[0], x, WARMUP_CALLS, memory)
        with clock.phase("run", device):
            time_calls(models[0], x, count, memory)
        return PhaseProfile(tuple(clock.phases))

    def hot_modules(self, x: torch.Tensor, calls: int = 20) -> HotSpots:
        """Return the model's modules by the time that each takes without those inside it; see `hot_spots`."""
        return hot_modules(self.module, x, whole_number("calls", calls, 1, MAX_CALLS), self._memory)

    def hot_ops(self, rows: int = 1) -> HotSpots:
        """Return the ops of one pass over so many rows, or tokens, by the time that they take; see `hot_spots`."""
        return hot_ops(self.module, whole_number("rows", rows, 1, MAX_ROWS))

    def sweep(self, x: torch.Tensor, sizes: Sequence[int] = SIZES) -> Comparison:
        """Return what batches of each size take; x (rows, ...) is repeated to fill them."""
        if not isinstance(x, torch.Tensor) or x.dim() < 2 or not len(x):
            raise InvalidInput(f"x: expected a tensor (rows, ...) with a row at least, got {show(x)}")
        return sweep_sizes(self.module, x, whole_numbers("sizes", sizes, MAX_ROWS), self._memory)

    def compare_threads(self, x: torch.Tensor, numbers: Sequence[int] | None = None) -> Comparison:
        """Return what a call takes with each number of CPU threads; None: one, and as many as there are cores."""
        counts = sorted({1, available_cores()}) if numbers is None else numbers
        return compare_threads(self.module, x, whole_numbers("numbers", counts, MAX_THREADS), self._memory)

    def compare_devices(self, x: torch.Tensor, devices: Sequence[str] | None = None) -> Comparison:
        """Return what a call takes on each device, by a copy of the model there; None: one of each type there is."""
        return compare_devices(self.module, x, available_types() if devices is None else devices, self._memory)

    def compare_kernels(self, rows: int = 1) -> tuple[Comparison, ...]:
        """Return, for each op of one pass over so many rows, what each of its kernels takes; see `comparison`."""
        return compare_kernels(self.module, whole_number("rows", rows, 1, MAX_ROWS))

    def check_leaks(self, x: torch.Tensor, calls: int = 2000, max_bytes_per_call: float = 256.0) -> LeakCheck:
        """Return whether memory grows by more than so many bytes per call; see `leaks`.

        Args:
            x: what is run.
            calls: 64 at least, behind a quarter as many that warm up.
            max_bytes_per_call: above which it is a leak.
        """
        limit = as_real(max_bytes_per_call)
        if limit is None or not limit >= 0:
            raise InvalidInput(f"max_bytes_per_call: expected 0 or more, got {show(max_bytes_per_call)}")
        device = device_of(self.module) or x.device
        count = whole_number("calls", calls, 64, MAX_CALLS)
        return check_leaks(lambda: infer(self.module, x, memory=self._memory), count, limit, device)


def whole_numbers(name: str, values: Sequence[int], most: int) -> list[int]:
    """Return a list of positive numbers, of which there is one at least. Raises InvalidInput."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InvalidInput(f"{name}: expected a list of whole numbers, got {show(values)}")
    return [whole_number(f"{name}[{place}]", value, 1, most) for place, value in enumerate(values)]
