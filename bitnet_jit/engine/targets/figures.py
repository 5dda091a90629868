"""What pictures show beside the targets: the times of single calls, and throughput at a concurrency."""

from dataclasses import dataclass

from bitnet_jit.engine.tensors.benchmark import quantile


@dataclass(frozen=True)
class Latencies:
    """The times of single calls.

    Attributes:
        milliseconds: of each call, the fastest first.
    """

    milliseconds: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """Return the milliseconds that a share of the calls does not pass.

        >>> Latencies((1.0, 2.0, 3.0, 4.0)).quantile(0.5)
        2.0
        """
        return quantile(list(self.milliseconds), share)


@dataclass(frozen=True)
class Point:
    """The throughput at one concurrency.

    Attributes:
        concurrency: callers, or texts, at a time.
        per_second: rows, or tokens, of all of them together.
    """

    concurrency: int
    per_second: float
