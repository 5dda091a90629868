"""The buffer pool over a recorded serving run: how often memory is used again, how much is lost, how long it takes."""

from bitnet_jit.engine.memory.trace import serving_figures
from bitnet_jit.engine.targets.target import Target

HIT_LIMIT, FRAGMENTATION_LIMIT, ALLOCATION_LIMIT = 80.0, 20.0, 1.0  # per cent, per cent, milliseconds
REQUESTS, THREADS = 400, 4


def measure_pool(requests: int = REQUESTS, threads: int = THREADS) -> tuple[Target, Target, Target]:
    """Record what requests of mixed sizes ask a pool for, and have a fresh one serve the same.

    Args:
        requests: lists of tensors that are recorded.
        threads: that serve them.

    Returns:
        The targets of its hit rate, its fragmentation, and the time of an allocation.
    """
    figures = serving_figures(requests, threads)
    account = figures.statistics
    run = f"{account.allocations} buffers of {requests} lists of mixed sizes by {threads} threads, replayed"
    lost = "memory at its peak that no caller had asked for at their peak, in that run"
    taken = f"P99 in that run; P50 {1e3 * figures.p50_ms:.1f} us"
    return (
        Target("pool hit rate", HIT_LIMIT, "%", True, 100 * account.hit_rate, run),
        Target("fragmentation", FRAGMENTATION_LIMIT, "%", False, 100 * account.fragmentation, lost),
        Target("allocation", ALLOCATION_LIMIT, "ms", False, figures.p99_ms, taken),
    )
