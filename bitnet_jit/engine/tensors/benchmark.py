"""The benchmark of one model and one input: latency of single calls, rows per second of batches, memory."""

import time
from collections.abc import Callable
from statistics import fmean

import torch
from torch import nn

from bitnet_jit.arguments import whole_number
from bitnet_jit.engine.memory.engine_memory import DEFAULT_MEMORY, EngineMemory
from bitnet_jit.engine.tensors.infer import device_of, infer, infer_batch
from bitnet_jit.engine.tensors.memory_used import resident_bytes
from bitnet_jit.engine.tensors.report import BenchmarkResults

WARMUP_CALLS = 20
BATCH = 256  # inputs per call of infer_batch
BATCH_CALLS = 4  # at least, of which the fastest counts
MAX_ITERATIONS = 10_000_000


def benchmark(
    module: nn.Module, x: torch.Tensor, iterations: int, memory: EngineMemory = DEFAULT_MEMORY
) -> BenchmarkResults:
    """Measure a model on one input, again and again.

    Args:
        module, x, memory: as in `infer`.
        iterations: calls of `infer` that are timed; as many inputs pass in batches, 1,024 at least.

    Raises:
        InvalidInput: iterations is no positive number, or as `infer`.

    >>> results = benchmark(nn.Linear(8, 8), torch.ones(1, 8), iterations=10)
    >>> results.iterations, results.p50_ms <= results.p99_ms, results.rows_per_s > 0
    (10, True, True)
    """
    count = whole_number("iterations", iterations, 1, MAX_ITERATIONS)
    before = resident_bytes()
    start = time.perf_counter()
    for _ in range(WARMUP_CALLS):
        wait_for(infer(module, x, memory=memory))
    warmup = time.perf_counter() - start
    times = sorted(seconds_of(lambda: infer(module, x, memory=memory)) for _ in range(count))
    rows = rows_of(x)
    after = resident_bytes()
    p50, p95, p99 = (1e3 * quantile(times, share) for share in (0.5, 0.95, 0.99))
    return BenchmarkResults(
        device=str(device_of(module) or x.device),
        iterations=count,
        warmup_s=warmup,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=1e3 * fmean(times),
        rows_per_s=rows * BATCH / seconds_of_batch(module, x, count, memory),
        single_rows_per_s=1e3 * rows / p50,
        memory_mb=None if before is None or after is None else max(0.0, (after - before) / 1e6),
    )


def seconds_of(call: Callable[[], torch.Tensor]) -> float:
    """Return the time of one call, its result waited for."""
    start = time.perf_counter()
    wait_for(call())
    return time.perf_counter() - start


def rows_of(x: torch.Tensor) -> int:
    """Return how many rows a tensor (..., K) has."""
    return max(1, x[..., 0].numel()) if x.dim() > 1 else 1


def seconds_of_batch(module: nn.Module, x: torch.Tensor, iterations: int, memory: EngineMemory) -> float:
    """Return the least time of a call of `infer_batch` with BATCH inputs."""
    xs = [x.clone() for _ in range(BATCH)]
    calls = max(BATCH_CALLS, iterations // BATCH) + 1  # the first one chooses kernels
    return min([seconds_of(lambda: infer_batch(module, xs, memory=memory)[-1]) for _ in range(calls)][1:])


def wait_for(y: torch.Tensor) -> None:
    """Wait until a tensor is there: a GPU may still be at it."""
    if not y.is_cpu:
        y.flatten()[:1].cpu()


def quantile(ordered: list[float], share: float) -> float:
    """Return the value that a share of numbers in order does not pass.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5), quantile([1.0, 2.0, 3.0, 4.0], 0.99)
    (2.0, 4.0)
    """
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
