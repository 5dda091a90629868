"""Drive a load: requests at their times (open loop), or by so many clients that ask again when answered (closed loop).

A request that is due while all clients are busy waits, and its time to the first token begins when it was due: else a
server that is overloaded would slow down its own measurement.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import httpx

from benchmarks.suites.load.client import Endpoint, Outcome, ask
from benchmarks.suites.load.plan import Planned


async def drive(
    http: httpx.AsyncClient,
    endpoint: Endpoint,
    requests: Sequence[Planned],
    concurrency: int | None,
    done: Callable[[Outcome], object],
) -> tuple[list[Outcome], float]:
    """Send all requests; return their outcomes in order, and the seconds from the first to the last answer's end.

    Args:
        http: a client whose base is the server.
        endpoint: what is asked.
        requests: in the order of their times.
        concurrency: requests that are open at a time at most; None: no limit.
        done: is told each outcome as it comes.
    """
    slots = asyncio.Semaphore(concurrency or len(requests))
    begin = time.perf_counter()
    closed = all(each.due_s == 0 for each in requests)  # then a request is due when a client is free

    async def one(planned: Planned) -> Outcome:
        await asyncio.sleep(max(0.0, begin + planned.due_s - time.perf_counter()))
        async with slots:
            due = time.perf_counter() - begin if closed else planned.due_s
            outcome = await ask(http, endpoint, planned, begin, due)
        done(outcome)
        return outcome

    outcomes = await asyncio.gather(*(one(planned) for planned in requests))
    return list(outcomes), time.perf_counter() - begin


def open_client(base_url: str, key: str | None, timeout_s: float) -> httpx.AsyncClient:
    """Return a client without limits on connections; a timeout is for each wait for bytes."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(timeout_s if math.isfinite(timeout_s) else None)
    return httpx.AsyncClient(base_url=base_url, headers=headers, limits=limits, timeout=timeout, trust_env=False)
