"""`measure_targets`: every target, one after the other, on one engine."""

from collections.abc import Callable
from dataclasses import dataclass

from bitnet_jit.arguments import whole_number
from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.threads import get_num_threads
from bitnet_jit.engine.engine import InferenceEngine
from bitnet_jit.engine.targets import throughput
from bitnet_jit.engine.targets.added_memory import measure_added_memory
from bitnet_jit.engine.targets.bandwidth import COLD_BYTES, measure_bandwidth
from bitnet_jit.engine.targets.concurrency import CALLERS, LEVELS, rows_by_callers, tokens_by_texts
from bitnet_jit.engine.targets.growth import CALLS, measure_growth
from bitnet_jit.engine.targets.latency import measure_latency
from bitnet_jit.engine.targets.layers import random_rows
from bitnet_jit.engine.targets.overhead import measure_overhead
from bitnet_jit.engine.targets.pool import REQUESTS, measure_pool
from bitnet_jit.engine.targets.report import EngineReport
from bitnet_jit.engine.targets.throughput import measure_throughput
from bitnet_jit.engine.targets.weight_bytes import measure_weight_bytes
from bitnet_jit.engine.tensors.benchmark import MAX_ITERATIONS
from bitnet_jit.generation.decoder import Decoder

STAGES = 9  # of which `measure_targets` tells


@dataclass(frozen=True)
class TargetOptions:
    """How much is measured.

    Attributes:
        device: torch's word for where to run.
        iterations: single calls, and rows in batches.
        seconds: for the large layer, and for each number of callers.
        large_shape: outputs and inputs of the large layer; None: as large as memory allows.
        cold_bytes: of its copies, which take turns.
        levels: texts at a time.
        callers: threads that call `engine.infer`.
        calls: after which the memory must be what it was.
        requests: that are recorded for the pool.

    Raises:
        InvalidInput: iterations is no positive number, or there is no such device.
    """

    device: str = "cpu"
    iterations: int = 5000
    seconds: float = 1.0
    large_shape: tuple[int, int] | None = None
    cold_bytes: int = COLD_BYTES
    levels: tuple[int, ...] = LEVELS
    callers: tuple[int, ...] = CALLERS
    calls: int = CALLS
    requests: int = REQUESTS

    def __post_init__(self) -> None:
        whole_number("iterations", self.iterations, 1, MAX_ITERATIONS)
        check_device(self.device)


QUICK = TargetOptions(
    iterations=300,
    seconds=0.1,
    large_shape=(1024, 1024),
    cold_bytes=2**22,
    levels=(1, 2),
    callers=(1, 2),
    calls=2000,
    requests=60,
)


def measure_targets(
    options: TargetOptions, decoder: Decoder, text_model: str, begin: Callable[[str], object]
) -> EngineReport:
    """Measure all targets.

    Args:
        options: how much is measured.
        decoder: whose tokens per second are measured beside the targets.
        text_model: its name.
        begin: is told what is being measured, STAGES times.
    """
    device = options.device
    with InferenceEngine() as engine:
        begin("rows per second")
        rows, results = measure_throughput(engine, device, options.iterations)
        begin("latency of single calls")
        call, latencies = measure_latency(engine, device, options.iterations)
        begin("memory that the engine adds, in another process")
        memory = measure_added_memory()
        begin("share of the memory bandwidth")
        share = measure_bandwidth(device, options.seconds, options.large_shape, options.cold_bytes)
        begin("the pool of buffers")
        pool = measure_pool(options.requests)
        begin("what the engine adds to a call")
        added = measure_overhead(engine, device, options.seconds)
        begin("memory over many calls")
        growth = measure_growth(engine, device, options.calls)
        begin("callers at a time")
        x = random_rows(1, throughput.FEATURES, device)
        by_callers = rows_by_callers(engine, throughput.MODEL, x, options.seconds, options.callers)
        begin(f"texts of {text_model} at a time")
        engine.add_model(text_model, decoder)
        by_texts = tokens_by_texts(engine, text_model, decoder.config.vocab_size, options.levels)
    targets = (rows, call, memory, share, *pool, measure_weight_bytes(), *added, growth)
    return EngineReport(device, get_num_threads(), targets, results, latencies, by_callers, by_texts, text_model)
