"""`Model`: a model that an engine holds, with its worker where it writes text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from bitnet_jit.arguments import show
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.text.grammar import Grammars
from bitnet_jit.engine.text.replica import Replica
from bitnet_jit.engine.text.replicas import ReplicaGroup
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.models.paged_store import PageShape
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.problem import pages_for

if TYPE_CHECKING:
    from bitnet_jit.generation.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """A model of an engine.

    Attributes:
        model_id: its name there.
        module: a `Decoder`, which writes text, or any other module, which takes tensors.
        replica: the worker of a decoder, or a group of them, one per device; else None.
    """

    model_id: str
    module: nn.Module
    replica: Replica | ReplicaGroup | None

    @cached_property
    def grammars(self) -> Grammars:
        """Return the grammars of a decoder's texts, compiled."""
        assert isinstance(self.module, Decoder)
        return Grammars(self.module)

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """Return the decoder's tokenizer, or None."""
        return self.module.tokenizer if isinstance(self.module, Decoder) else None

    @property
    def total_weight_count(self) -> int:
        """Return the number of weights, those of packed layers by their shapes."""
        packed = [layer for layer in self.module.modules() if isinstance(layer, PackedBitLinear)]
        others = [p for name, p in self.module.named_parameters() if not name.endswith("w_packed")]
        return sum(one.out_features * one.in_features for one in packed) + sum(one.numel() for one in others)


def make_model(model_id: str, module: nn.Module, config: EngineConfig, replicas: Sequence[Decoder] = ()) -> Model:
    """Return a model, whose workers have begun where it is a decoder.

    Raises:
        InvalidInput: a replica is not such a decoder as the module, or memory does not suffice for the pages.
    """
    if not isinstance(module, Decoder):
        if replicas:
            raise InvalidInput(f"replicas: expected none, as module is no decoder, got {len(replicas)}")
        return Model(model_id, module, None)
    check_replicas(module, replicas)
    name, decoders = f"bitnet-jit {model_id}", [module, *replicas]
    if not replicas:
        return Model(model_id, module, Replica(module, config, num_pages(module, config), name))
    group = ReplicaGroup(model_id, config.max_waiting)
    try:
        for place, decoder in enumerate(decoders):
            sharing = sum(other.device == decoder.device for other in decoders)
            pages = num_pages(decoder, config, sharing)
            group.add(Replica(decoder, config, pages, f"{name} {place}", group))
    except BaseException:
        group.close("it could not be begun", abandon=True)
        raise
    return Model(model_id, module, group)


def check_replicas(decoder: Decoder, replicas: Sequence[Decoder]) -> None:
    """Raise InvalidInput unless all are decoders of one shape, whose tokens are those of the first one."""
    if not isinstance(replicas, Sequence):
        raise InvalidInput(f"replicas: expected a list of decoders, got {show(replicas)}")
    for place, other in enumerate(replicas):
        if not isinstance(other, Decoder):
            raise InvalidInput(f"replicas[{place}]: expected a Decoder, got {show(other)}")
        for name in ("config", "dtype", "cache_dtype"):
            if getattr(other, name) != getattr(decoder, name):
                raise InvalidInput(
                    f"replicas[{place}]: expected the same model as module, whose {name} is {getattr(decoder, name)}, "
                    f"got {getattr(other, name)}"
                )


def num_pages(decoder: Decoder, config: EngineConfig, sharing: int = 1) -> int:
    """Return the pages of a decoder's cache: for as many texts as may run, as far as the share of memory goes.

    Args:
        decoder: the decoder.
        config: has the share, or the number itself.
        sharing: caches on the decoder's device that have the share together.
    """
    if config.num_pages is not None:
        return config.num_pages
    shape = decoder.config
    page = PageShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, 1, decoder.cache_dtype).num_bytes
    memory = kind_of(decoder.device).total_memory(decoder.device) * config.memory_share / sharing
    longest = pages_for(shape.context_length)
    return max(longest, min(int(memory // page), config.max_running * longest))


def close_models(models: dict[str, Model], abandon: bool) -> None:
    """End the workers of models, after their requests or at once, and forget the models."""
    for model in [*models.values()]:
        if model.replica is not None:
            model.replica.close("it is being closed", abandon)
    models.clear()
