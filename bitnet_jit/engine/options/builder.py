"""`EngineBuilder`: an engine, option by option; all are checked at the end, so that all mistakes are told at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.engine.options.config import AUTO, MAX, EngineConfig, check_level, check_place
from bitnet_jit.engine.options.levels import OptimizationLevel
from bitnet_jit.engine.options.memory_size import MAX_BYTES, MemorySize
from bitnet_jit.errors import InvalidInput

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

CPU = "cpu"
Fields = dict[str, Any]  # of an EngineConfig


@dataclass(frozen=True)
class EngineBuilder:
    """The options of an engine in the making. Each method returns another builder; `InferenceEngine.builder()` is one.

    Attributes:
        make: makes the engine.
        config: what is not set otherwise.
        chosen: options by the names of the methods that set them.

    >>> from bitnet_jit.engine import InferenceEngine, MemorySize, OptimizationLevel
    >>> builder = InferenceEngine.builder().device("cpu").batch_size(16).memory_pool_size(MemorySize.MB(64))
    >>> with builder.optimization_level(OptimizationLevel.NONE).build() as engine:
    ...     engine.config.max_running, engine.config.memory_pool_bytes
    (16, 67108864)
    >>> builder.batch_size(0).max_cached_models(-1).validate()
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: batch_size: expected ... at least 1, got 0; max_cached_models: expected ... got -1
    """

    make: "Callable[[EngineConfig], InferenceEngine]"
    config: EngineConfig = field(default_factory=EngineConfig)
    chosen: Mapping[str, object] = field(default_factory=dict)

    def device(self, device: torch.device | str) -> "EngineBuilder":
        """Put models on a device: "cpu", "cuda", "cuda:1"; "auto" is the fastest of this machine."""
        return self._with("device", device)

    def enable_gpu_acceleration(self, enabled: bool = True) -> "EngineBuilder":
        """Let "auto" be a GPU where there is one, or have it be the CPU always."""
        return self._with("enable_gpu_acceleration", enabled)

    def batch_size(self, size: int) -> "EngineBuilder":
        """Write at most so many texts at a time, and run at most so many rows of tensors in one batch."""
        return self._with("batch_size", size)

    def max_waiting(self, requests: int) -> "EngineBuilder":
        """Let so many requests for texts of a model wait; more are refused with QueueFull."""
        return self._with("max_waiting", requests)

    def memory_pool_size(self, size: MemorySize | int) -> "EngineBuilder":
        """Give the texts of each model at most so much memory for their keys and values; an int counts bytes."""
        return self._with("memory_pool_size", size)

    def optimization_level(self, level: OptimizationLevel) -> "EngineBuilder":
        """Do so much for a model's speed before its first request."""
        return self._with("optimization_level", level)

    def enable_caching(self, enabled: bool = True) -> "EngineBuilder":
        """Keep pages of earlier texts and models that are idle; or no such pages, and one loaded model at a time."""
        return self._with("enable_caching", enabled)

    def max_cached_models(self, number: int) -> "EngineBuilder":
        """Keep at most so many models that were loaded."""
        return self._with("max_cached_models", number)

    def max_cached_bytes(self, size: MemorySize | int) -> "EngineBuilder":
        """Keep loaded models of at most so many bytes together."""
        return self._with("max_cached_bytes", size)

    def processes(self, enabled: bool = True) -> "EngineBuilder":
        """Give each worker of a model that is loaded a process of its own, or none."""
        return self._with("processes", enabled)

    def high_performance(self) -> "EngineBuilder":
        """Begin with many texts at a time in half of a device's memory, and with models that are tuned."""
        level = OptimizationLevel.AGGRESSIVE
        return self._from(replace(EngineConfig.optimized_for_speed(), optimization_level=level))

    def low_memory(self) -> "EngineBuilder":
        """Begin with few texts at a time, small batches, and nothing that is kept."""
        config = EngineConfig.optimized_for_memory()
        return self._from(replace(config, batch_rows=64, max_cached_models=1))

    def edge_deployment(self) -> "EngineBuilder":
        """Begin with a small machine without a GPU: four texts at a time in 128 MB, one model."""
        pool = MemorySize.MB(128).num_bytes
        config = EngineConfig(max_running=4, max_waiting=64, batch_rows=64, memory_pool_bytes=pool, device=CPU)
        return self._from(replace(config, max_cached_models=1, step_tokens=128))

    def server_deployment(self) -> "EngineBuilder":
        """Begin with many clients: a long queue, four models that are tuned, and pages that are kept."""
        level = OptimizationLevel.AGGRESSIVE
        return self._from(
            EngineConfig(max_waiting=8192, memory_share=0.5, optimization_level=level, max_cached_models=4)
        )

    def validate(self) -> EngineConfig:
        """Return the options as an engine takes them. Raises InvalidInput, which names every option that is wrong."""
        fields: Fields = {}
        errors = []
        for name, value in self.chosen.items():
            try:
                fields |= CHECKS[name](name, value)
            except InvalidInput as error:
                errors.append(str(error))
        errors += conflicts(self.chosen)
        if errors:
            raise InvalidInput("; ".join(errors))
        if self.chosen.get("enable_gpu_acceleration") is False:
            fields["device"] = CPU
        elif "enable_gpu_acceleration" in self.chosen and "device" not in self.chosen:
            fields["device"] = AUTO
        return replace(self.config, **fields)

    def build(self) -> "InferenceEngine":
        """Return the engine. Raises InvalidInput as `validate`."""
        return self.make(self.validate())

    def _with(self, name: str, value: object) -> "EngineBuilder":
        """Return a builder with one more option."""
        return replace(self, chosen={**self.chosen, name: value})

    def _from(self, config: EngineConfig) -> "EngineBuilder":
        """Return a builder with other defaults; options that were set stay."""
        return replace(self, config=config)


def batch(name: str, value: object) -> Fields:
    """Return the fields of `batch_size`."""
    size = whole_number(name, value, 1, MAX)
    return {"max_running": size, "batch_rows": size}


def number_as(target: str) -> Callable[[str, object], Fields]:
    """Return what checks a number of things."""
    return lambda name, value: {target: whole_number(name, value, 1, MAX)}


def bytes_as(target: str) -> Callable[[str, object], Fields]:
    """Return what checks a number of bytes."""
    return lambda name, value: {
        target: value.num_bytes if isinstance(value, MemorySize) else whole_number(name, value, 1, MAX_BYTES)
    }


def place(name: str, value: object) -> Fields:  # noqa: ARG001  all checks are called alike
    """Return the fields of `device`."""
    check_place(value)
    return {"device": value}


def acceleration(name: str, value: object) -> Fields:
    """Return no fields: `enable_gpu_acceleration` says what "auto" is."""
    switch(name, value)
    return {}


def caching(name: str, value: object) -> Fields:
    """Return the fields of `enable_caching`."""
    return {"prefix_cache": True} if switch(name, value) else {"prefix_cache": False, "max_cached_models": 1}


def processes(name: str, value: object) -> Fields:
    """Return the fields of `processes`."""
    return {"processes": switch(name, value)}


def level(name: str, value: object) -> Fields:  # noqa: ARG001
    """Return the fields of `optimization_level`."""
    check_level(value)
    return {"optimization_level": value}


def switch(name: str, value: object) -> bool:
    """Return True or False; InvalidInput for any other value."""
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: expected True or False, got {show(value)}")
    return value


def conflicts(chosen: Mapping[str, object]) -> list[str]:
    """Return in words which options contradict one another."""
    words = []
    device = chosen.get("device", AUTO)
    if chosen.get("enable_gpu_acceleration") is False and str(device) not in (AUTO, CPU):
        words.append(f"enable_gpu_acceleration: expected True beside the device {show(device)}, got False")
    if chosen.get("enable_gpu_acceleration") is True and str(device) == CPU:
        words.append("enable_gpu_acceleration: expected False or nothing beside the device 'cpu', got True")
    if chosen.get("enable_caching") is False and chosen.get("max_cached_models", 1) != 1:
        words.append(
            f"max_cached_models: expected 1 where enable_caching is False, got {show(chosen['max_cached_models'])}"
        )
    return words


CHECKS: dict[str, Callable[[str, object], Fields]] = {
    "device": place,
    "enable_gpu_acceleration": acceleration,
    "batch_size": batch,
    "max_waiting": number_as("max_waiting"),
    "memory_pool_size": bytes_as("memory_pool_bytes"),
    "optimization_level": level,
    "enable_caching": caching,
    "max_cached_models": number_as("max_cached_models"),
    "max_cached_bytes": bytes_as("max_cached_bytes"),
    "processes": processes,
}
