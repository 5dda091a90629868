"""What an engine and the processes of its workers tell one another. See `child.py` for who answers what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.stats import ModelStats

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from bitnet_jit.checkpoints.checksum import Stamp
    from bitnet_jit.engine.grammar.grammar import Grammar
    from bitnet_jit.engine.options.config import EngineConfig
    from bitnet_jit.generation.sampling import Sampling


@dataclass(frozen=True)
class Start:
    """The first message to a process: what it is to load, and how to run it.

    Attributes:
        name: of the worker.
        path, stamp: the model's files, and of which writing they are.
        device, dtype, head, cache, i2_s: as in `bitnet_jit.load`.
        config: the engine's options.
        sharing: workers that share the memory of the device.
        threads: of the CPU.
        has_others: whether other workers have the same model.
        log_level: of records that are to be sent.
    """

    name: str
    path: "Path"
    stamp: "Stamp"
    device: "torch.device"
    dtype: "torch.dtype"
    head: str
    cache: str
    i2_s: str
    config: "EngineConfig"
    sharing: int
    threads: int
    has_others: bool
    log_level: int


@dataclass(frozen=True)
class Terms:
    """A request: as much of a `Request` as another process needs to go on with it; see there.

    Moments are of the monotonic clock: on Linux, macOS and Windows it is the system's, and the same in all processes.
    """

    number: int
    ids: list[int]
    prompt_length: int
    limit: int
    stop: tuple[int | str, ...]
    ignore_eos: bool
    options: "Sampling"
    arrived: float
    deadline: float | None
    priority: int
    client: str
    cached: int
    grammar: "Grammar | None"
    speculates: bool
    prompt_logprobs: int | None
    pooling: str | None

    @classmethod
    def of(cls, request: Request) -> "Terms":
        """Return the terms of a request as far as it has come."""
        return cls(
            request.number,
            request.ids.copy(),
            request.prompt_length,
            request.limit,
            request.stop,
            request.ignore_eos,
            request.options,
            request.arrived,
            request.deadline,
            request.priority,
            request.client,
            request.cached,
            request.grammar,
            request.ngrams is not None,
            request.prompt_logprobs,
            None if request.pool is None else request.pool.pooling,
        )


@dataclass(frozen=True)
class Cancel:
    """The request of a number is to end."""

    number: int


@dataclass(frozen=True)
class Share:
    """Half of what waits is to be given back, for a worker that has nothing to do."""


@dataclass(frozen=True)
class Stop:
    """The process is to end once its requests have."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """A process has loaded its model.

    Attributes:
        num_pages, cache_bytes: of its cache.
        weight_bytes, weight_count: of its model.
        warnings: that loading it gave.
    """

    num_pages: int
    cache_bytes: int
    weight_bytes: int
    weight_count: int
    warnings: tuple[Warning, ...]


@dataclass(frozen=True)
class Failed:
    """A process could not load its model."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """The worker of a process has ended, in words; all that is open must go on elsewhere."""

    failure: str


@dataclass(frozen=True)
class Begun:
    """Requests of these numbers are in the next step for the first time: they may be what ends the process."""

    numbers: list[int]


@dataclass(frozen=True)
class Given:
    """The request of a number was given back: it has not begun."""

    number: int


@dataclass(frozen=True)
class Update:
    """What has happened in a process since the last message.

    Attributes:
        items: in order: (number of a request, int: tokens of its prompt that were cached; or (token, logprobs, whether
            it is the last one); or an `End`), or other messages, or log records.
        stats: of its worker; None before it is ready.
        taken: requests that it has taken.
    """

    items: list[Any]
    stats: ModelStats | None
    taken: int
