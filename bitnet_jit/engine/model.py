"""`Model`: a model that an engine holds, with its worker where it writes text."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.text.grammar import Grammars
from bitnet_jit.engine.text.replica import Replica
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
        replica: the worker of a decoder, else None.
    """

    model_id: str
    module: nn.Module
    replica: Replica | None

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


def make_model(model_id: str, module: nn.Module, config: EngineConfig) -> Model:
    """Return a model, whose worker has begun where it is a decoder."""
    if not isinstance(module, Decoder):
        return Model(model_id, module, None)
    return Model(model_id, module, Replica(module, config, num_pages(module, config), f"bitnet-jit {model_id}"))


def num_pages(decoder: Decoder, config: EngineConfig) -> int:
    """Return the pages of a decoder's cache: for as many texts as may run, as far as the share of memory goes."""
    if config.num_pages is not None:
        return config.num_pages
    shape = decoder.config
    page = PageShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, 1, decoder.cache_dtype).num_bytes
    memory = kind_of(decoder.device).total_memory(decoder.device) * config.memory_share
    longest = pages_for(shape.context_length)
    return max(longest, min(int(memory // page), config.max_running * longest))


def close_models(models: dict[str, Model], abandon: bool) -> None:
    """End the workers of models, after their requests or at once, and forget the models."""
    for model in [*models.values()]:
        if model.replica is not None:
            model.replica.close("it is being closed", abandon)
    models.clear()
