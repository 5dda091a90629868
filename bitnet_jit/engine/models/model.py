"""`Model`: a model that an engine holds, with its worker where it writes text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from bitnet_jit.arguments import show
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.devices.balanced import Balanced
from bitnet_jit.engine.grammar.grammar import Grammars
from bitnet_jit.engine.models.dimensions import input_dim, output_dim
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.processes.remote_decoder import RemoteDecoder
from bitnet_jit.engine.text.replica import Replica
from bitnet_jit.engine.text.replicas import ReplicaGroup
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.models.paged_store import PageShape
from bitnet_jit.models.recurrent_states import bytes_per_slot
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.problem import PAGE, pages_for

if TYPE_CHECKING:
    from bitnet_jit.generation.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """A model of an engine.

    Attributes:
        model_id: its name there.
        module: a `Decoder`, which writes text, or any other module, which takes tensors. Where its workers have
            processes, it has no weights: see `RemoteDecoder`.
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
        return weight_count(one_of(self.module))

    @property
    def input_dim(self) -> int | None:
        """Return the features of a row that it takes, of a decoder its vocabulary; None where no layer tells."""
        return input_dim(one_of(self.module))

    @property
    def output_dim(self) -> int | None:
        """Return the features of a row that it gives, of a decoder its vocabulary; None where no layer tells."""
        return output_dim(one_of(self.module))


def weight_count(module: nn.Module) -> int:
    """Return the number of weights of a module, those of packed layers by their shapes."""
    if isinstance(module, RemoteDecoder):
        return module.weight_count
    packed = [layer for layer in module.modules() if isinstance(layer, PackedBitLinear)]
    others = [p for name, p in module.named_parameters() if not name.endswith("w_packed")]
    return sum(one.out_features * one.in_features for one in packed) + sum(one.numel() for one in others)


def one_of(module: nn.Module) -> nn.Module:
    """Return one of the copies of a module on several devices, or the module itself."""
    return module.members[0].module if isinstance(module, Balanced) else module


def text_parts(model: Model) -> tuple[Decoder, Replica | ReplicaGroup]:
    """Return a model's decoder and its worker; InvalidInput where it writes no text."""
    if model.replica is None or not isinstance(model.module, Decoder):
        raise InvalidInput(f"model_id: {model.model_id!r} is no decoder, and writes no text")
    return model.module, model.replica


def make_model(model_id: str, module: nn.Module, config: EngineConfig, replicas: Sequence[nn.Module] = ()) -> Model:
    """Return a model, whose workers have begun where it is a decoder.

    Raises:
        InvalidInput: a replica is not such a decoder as the module, or memory does not suffice for the pages.
    """
    if not isinstance(replicas, Sequence):
        raise InvalidInput(f"replicas: expected a list of modules, got {show(replicas)}")
    if isinstance(module, RemoteDecoder):
        raise InvalidInput("module: expected a model with its weights, got one whose weights are in other processes")
    if not isinstance(module, Decoder):
        return Model(model_id, Balanced([module, *replicas]) if replicas else module, None)
    name, decoders = f"bitnet-jit {model_id}", as_decoders(module, replicas)
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


def as_decoders(decoder: Decoder, replicas: Sequence[nn.Module]) -> list[Decoder]:
    """Return a decoder and its replicas. Raises InvalidInput unless all are decoders of one shape."""
    decoders = [decoder]
    for place, other in enumerate(replicas):
        if not isinstance(other, Decoder):
            raise InvalidInput(f"replicas[{place}]: expected a Decoder, got {show(other)}")
        for name in ("config", "dtype", "cache_dtype"):
            if getattr(other, name) != getattr(decoder, name):
                raise InvalidInput(
                    f"replicas[{place}]: expected the same model as module, whose {name} is {getattr(decoder, name)}, "
                    f"got {getattr(other, name)}"
                )
        decoders.append(other)
    return decoders


def num_pages(decoder: Decoder, config: EngineConfig, sharing: int = 1) -> int:
    """Return the pages of a decoder's cache: for as many texts as may run, as far as the share of memory goes.

    Args:
        decoder: the decoder.
        config: has the share, or the number itself.
        sharing: caches on the decoder's device that have the share together.

    Raises:
        InvalidInput: memory_pool_bytes has no room for a page in each of them.
    """
    shape = decoder.config
    page = PageShape.of(shape, 1, decoder.cache_dtype).num_bytes
    states = config.max_running * bytes_per_slot(shape, decoder.dtype)
    if (pool := config.memory_pool_bytes) is not None:
        if pool < (least := (page + states) * sharing):
            of_states = f" beside the states of max_running={config.max_running} texts" if states else ""
            raise InvalidInput(
                f"memory_pool_bytes: expected {least} at least, for a page of {PAGE} tokens{of_states}, got {pool}"
            )
        room = pool // sharing - states
        return min(room // page, config.num_pages or config.max_running * pages_for(shape.context_length))
    if config.num_pages is not None:
        return config.num_pages
    memory = kind_of(decoder.device).total_memory(decoder.device) * config.memory_share / sharing - states
    longest = pages_for(shape.context_length)
    return max(longest, min(int(memory // page), config.max_running * longest))
