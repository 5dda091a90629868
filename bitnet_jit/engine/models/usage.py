"""`MemoryUsage` and `CacheStats`: what the models of an engine take, and how often one was there already."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from bitnet_jit.engine.tensors.infer import device_of
from bitnet_jit.engine.tensors.memory_used import resident_bytes

if TYPE_CHECKING:
    from bitnet_jit.engine.models.held import Held


@dataclass(frozen=True)
class CacheStats:
    """The models of an engine that were loaded and may be let go.

    Attributes:
        hits, misses: loads that found their model, and those that read its files.
        evictions: models that were let go for others.
        models, bytes: that are kept, and the bytes of their weights.
        pinned: models that stay whatever comes.
        max_models, max_bytes: the limits of `models` and `bytes`; None: none.
    """

    hits: int
    misses: int
    evictions: int
    models: int
    bytes: int
    pinned: int
    max_models: int | None
    max_bytes: int | None


@dataclass(frozen=True)
class ModelMemory:
    """The memory of one model, in bytes.

    Attributes:
        model_id: its name.
        device: torch's word for where its weights are, with commas between several.
        weights: of its parameters and buffers, on all devices, as they were when it was taken in.
        pages: of the keys and values of its texts.
    """

    model_id: str
    device: str
    weights: int
    pages: int


@dataclass(frozen=True)
class MemoryUsage:
    """The memory of an engine, in bytes.

    Attributes:
        models: of each model.
        buffers: in which tensors are joined and moved.
        resident: that this process holds, all of it; None where the system does not tell.
    """

    models: tuple[ModelMemory, ...]
    buffers: int
    resident: int | None

    @property
    def weights(self) -> int:
        """Return the bytes of all weights."""
        return sum(model.weights for model in self.models)

    @property
    def pages(self) -> int:
        """Return the bytes of all pages of texts."""
        return sum(model.pages for model in self.models)


def memory_usage(models: Iterable["Held"], buffers: int) -> MemoryUsage:
    """Return what models and buffers take, and what this process holds."""
    return MemoryUsage(tuple(map(memory_of, models)), buffers, resident_bytes())


def memory_of(held: "Held") -> ModelMemory:
    """Return what one model takes."""
    members = () if held.model.replica is None else held.model.replica.members
    places = dict.fromkeys(str(member.device) for member in members) or [str(device_of(held.model.module) or "cpu")]
    pages = sum(member.cache_bytes for member in members)
    return ModelMemory(held.model.model_id, ", ".join(places), held.num_bytes, pages)


def weight_bytes(*modules: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of modules; memory that several of them share counts once.

    >>> weight_bytes(nn.Linear(8, 2))
    72
    """
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    storages = [(tensor.device, tensor.untyped_storage()) for tensor in tensors if not tensor.is_meta]
    return sum({(device, storage.data_ptr()): storage.nbytes() for device, storage in storages}.values())
