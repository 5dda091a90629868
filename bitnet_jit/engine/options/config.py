"""`EngineConfig`: how much an engine takes in at a time, and what memory it may use."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.devices.checks import check_device
from bitnet_jit.engine.options.levels import OptimizationLevel
from bitnet_jit.errors import InvalidInput

AUTO = "auto"
MAX = 2**31 - 1
NUMBERS = {  # options that count something, and the most of it
    "max_running": MAX,
    "max_waiting": MAX,
    "num_pages": MAX,
    "step_tokens": MAX,
    "batch_rows": MAX,
    "memory_pool_bytes": 2**63 - 1,
    "max_cached_models": MAX,
    "max_cached_bytes": 2**63 - 1,
}
NEEDED = ("max_running", "max_waiting")  # of them, those that cannot be None


def check_share(value: object) -> None:
    """Raise InvalidInput for what is no share of memory."""
    share = as_real(value)
    if share is None or not 0 < share < 1:
        raise InvalidInput(f"memory_share: expected a number above 0 and below 1, got {show(value)}")


def check_switch(value: object) -> None:
    """Raise InvalidInput for what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidInput(f"prefix_cache: expected True or False, got {show(value)}")


def check_place(value: object) -> None:
    """Raise InvalidInput for what is no device that can be used here."""
    if value is None:
        raise InvalidInput("device: expected such as auto, cpu or cuda:0, got None")
    if value != AUTO:
        check_device(value)  # type: ignore[arg-type]


def check_level(value: object) -> None:
    """Raise InvalidInput for what is no level."""
    if not isinstance(value, OptimizationLevel):
        names = ", ".join(level.name for level in OptimizationLevel)
        raise InvalidInput(f"optimization_level: expected an OptimizationLevel ({names}), got {show(value)}")


def check_seconds(value: object) -> None:
    """Raise InvalidInput for what is no time to spend."""
    seconds = as_real(value)
    if seconds is None or not seconds >= 0:
        raise InvalidInput(f"tuning_seconds: expected a number of at least 0, got {show(value)}")


def check_processes(value: object) -> None:
    """Raise InvalidInput for what is neither True, False nor None."""
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"processes: expected True, False or None, got {show(value)}")


CHECKS: dict[str, Callable[[object], None]] = {
    "memory_share": check_share,
    "prefix_cache": check_switch,
    "device": check_place,
    "optimization_level": check_level,
    "tuning_seconds": check_seconds,
    "processes": check_processes,
}


@dataclass(frozen=True)
class EngineConfig:
    """The options of an engine, checked by the constructor.

    Attributes:
        max_running: texts of a model that are written at a time.
        max_waiting: requests to a model that may wait beside them; more are refused with QueueFull.
        num_pages: pages of 64 tokens for keys and values of a model's texts; None: as many as `max_running` texts of
            the longest length take, but no more than `memory_share`.
        memory_share: of a device's memory, for such pages; above 0, below 1.
        prefix_cache: whether pages of earlier texts are kept for requests that begin alike, while nobody needs them.
        step_tokens: tokens of prompts in a step at most; None: as many as suit the device.
        batch_rows: rows of a batch of tensors at most; None: as many as suit the device.
        memory_pool_bytes: for the pages of each model's texts, in place of `memory_share`, and as many at most for
            buffers in which tensors are joined and moved; None: by the share, and 256 MiB.
        device: where `load_model` puts models: "cpu", "cuda", "cuda:1"; "auto": the fastest one.
        optimization_level: what is done for a model's speed before its first request.
        tuning_seconds: of `OptimizationLevel.AGGRESSIVE`, for each model at most.
        max_cached_models: models of `load_model` that are kept; for one more, the one that was not used for longest is
            let go, of those that nobody uses at the moment. Pinned models do not count. None: any number.
        max_cached_bytes: of the weights of those models together; None: any number.
        processes: whether each worker of a model of `load_model` has a process of its own, so that a GPU's context that
            is lost, or a process that is killed, costs no more than that process; None: where several GPUs are named.

    Raises:
        InvalidInput: a value is out of range; the message names every one that is.

    >>> EngineConfig(max_running=0)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: max_running: expected a whole number of at least 1, got 0
    """

    max_running: int = 64
    max_waiting: int = 1024
    num_pages: int | None = None
    memory_share: float = 0.25
    prefix_cache: bool = True
    step_tokens: int | None = None
    batch_rows: int | None = None
    memory_pool_bytes: int | None = None
    device: torch.device | str = AUTO
    optimization_level: OptimizationLevel = OptimizationLevel.BASIC
    tuning_seconds: float = 60.0
    max_cached_models: int | None = 8
    max_cached_bytes: int | None = None
    processes: bool | None = None

    def __post_init__(self) -> None:
        errors = []
        for name, most in NUMBERS.items():
            value = getattr(self, name)
            if value is None and name not in NEEDED:
                continue
            try:
                object.__setattr__(self, name, whole_number(name, value, 1, most, none=name not in NEEDED))
            except InvalidInput as error:
                errors.append(str(error))
        for name, check in CHECKS.items():
            try:
                check(getattr(self, name))
            except InvalidInput as error:
                errors.append(str(error))
        if errors:
            raise InvalidInput("; ".join(errors))

    @classmethod
    def balanced(cls) -> "EngineConfig":
        """Return the defaults."""
        return cls()

    @classmethod
    def optimized_for_speed(cls) -> "EngineConfig":
        """Return options for many texts at a time, which take half of a device's memory."""
        return cls(max_running=256, max_waiting=4096, memory_share=0.5)

    @classmethod
    def optimized_for_memory(cls) -> "EngineConfig":
        """Return options for few texts at a time in a tenth of a device's memory, of which nothing is kept."""
        return cls(max_running=8, memory_share=0.1, prefix_cache=False, step_tokens=256)
