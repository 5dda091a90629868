"""`GgufTarget`: what is converted to GGUF, tensor by tensor, with its ternary layers in one type."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from bitnet_jit.checkpoints.decoder_layers import ternary_layers
from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.block_scales import block_scales
from bitnet_jit.checkpoints.formats.gguf.config import ACTIVATION, KINDS, ModelKind, pooling_keys
from bitnet_jit.checkpoints.formats.gguf.config_keys import architecture_of, config_keys, rope_divisors
from bitnet_jit.checkpoints.formats.gguf.delta_net import heads_as_tiled, is_behind_heads, reorder_floats, reorder_layer
from bitnet_jit.checkpoints.formats.gguf.encode import i2_s_bytes, to_blocks
from bitnet_jit.checkpoints.formats.gguf.hadamard import hadamard_keys
from bitnet_jit.checkpoints.formats.gguf.i2_s import X86
from bitnet_jit.checkpoints.formats.gguf.names import gguf_layer, gguf_tensor
from bitnet_jit.checkpoints.formats.gguf.rope import PLAIN, SHORT
from bitnet_jit.checkpoints.formats.gguf.row_order import in_pairs, reordered
from bitnet_jit.checkpoints.formats.gguf.tensor_type import TensorType
from bitnet_jit.checkpoints.formats.gguf.tokenizer_keys import tokenizer_keys
from bitnet_jit.checkpoints.formats.gguf.types import I2_S, TYPES
from bitnet_jit.checkpoints.formats.gguf.writing import Planned
from bitnet_jit.checkpoints.formats.reader import Chat, Reader
from bitnet_jit.checkpoints.formats.sampling_keys import keys_of_defaults
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.quant.ternary import coarsest_scale

NAMES = {"tq1_0": 34, "tq2_0": 35, "i2_s": 36, "q2_0": 42, "pq2_0": 142, "ptq1_0": 143}
DENSE = {of.dtype: (number, of) for number, of in TYPES.items() if of.dtype is not None}


@dataclass
class GgufTarget:
    """A GGUF file to be made of a model.

    Attributes:
        type_name: of the ternary layers: one of NAMES.
        lossy: whether scales may be rounded to float16; else such a model is refused.
        moved: by how much, relative, the scales of a tensor were rounded, by its name.
    """

    type_name: str
    lossy: bool = False
    moved: dict[str, float] = field(default_factory=dict)

    @property
    def type(self) -> TensorType:
        return TYPES[NAMES[self.type_name]]

    def metadata(self, reader: Reader, chat: Chat, name: str) -> dict[str, Any]:
        """Return the keys of a model of that name, whose reader is open."""
        config = reader.config
        weight = read_joint(reader, block_names(config, 0).attention.output)
        keys = config_keys(config, name) | tokenizer_keys(reader.tokenizer(), config.vocab_size)
        for key, number in zip(("eos", "eot"), config.eos_ids, strict=False):
            keys[f"tokenizer.ggml.{key}_token_id"] = number
        keys[ACTIVATION] = weight.activation
        rotations = {layer.name: rotation for layer in ternary_layers(reader) if (rotation := reader.rotation(layer))}
        stored = {gguf_tensor(layer, kind_of(config).names): rotation for layer, rotation in rotations.items()}
        keys |= hadamard_keys(stored, config.tied_embeddings, any(map(is_behind_heads, rotations)))
        keys |= pooling_keys(architecture_of(config), reader.pooling()) | keys_of_defaults(reader.defaults())
        return keys if chat.source is None else keys | {"tokenizer.chat_template": chat.source}

    def tensors(self, reader: Reader) -> Iterator[Planned]:
        """Yield the tensors of a reader that is open, in their order; InvalidInput names a layer that does not fit."""
        config = reader.config
        for name, shape in outer_shapes(config).items():
            yield self.outer(reader, name, shape)
        if (divisors := rope_divisors(config)) is not None:
            name = SHORT if architecture_of(config) == "minicpm" else PLAIN
            yield numbers(name, tuple(divisors.shape), torch.float32, lambda: divisors)
        for index in range(config.num_layers):
            names = block_names(config, index)
            for name, shape in names.floats(config):
                yield self.floats(reader, name, shape)
            for layers in names.linears:
                for layer in layers:
                    yield from self.linear(reader, layer)

    def outer(self, reader: Reader, name: str, shape: tuple[int, ...]) -> Planned:
        """Return an embedding, a head or the last norm."""
        if len(shape) == 1:
            return self.floats(reader, name, shape)
        if reader.holds_codes(name):
            return next(self.linear(reader, LinearName(name, shape[0], shape[1], False)))
        return numbers(gguf_tensor(name), shape, reader.dtype_of(name), lambda: reader.dense(name))

    def floats(self, reader: Reader, name: str, shape: tuple[int, ...]) -> Planned:
        """Return a tensor of floats of a block, or a norm, in float32: llama.cpp takes no other."""
        net, stored = reader.config.delta_net, gguf_tensor(name, kind_of(reader.config).names)

        def content() -> torch.Tensor:
            floats = reader.dense(name)
            return floats if net is None else reorder_floats(name, floats, net, heads_as_tiled)

        return numbers(stored, shape, torch.float32, content)

    def linear(self, reader: Reader, layer: LinearName) -> Iterator[Planned]:
        """Yield the weight of a layer, and its bias."""
        block, kind = X86.elements if self.type is I2_S else self.type.block, kind_of(reader.config)
        if layer.in_features % block:
            raise InvalidInput(
                f"format: {self.type.name} holds inputs in multiples of {block}, {layer.name} has {layer.in_features}"
            )
        biases: list[torch.Tensor] = []
        name = gguf_tensor(layer.name, kind.names)

        def content() -> torch.Tensor:
            weight = as_stored(read_joint(reader, [layer]), layer, reader.config)
            biases.extend([] if weight.bias is None else [weight.bias])
            return self.encoded(name, weight)

        shape = (layer.out_features, layer.in_features)
        size = self.type.size(layer.out_features * layer.in_features)
        yield Planned(name, NAMES[self.type_name], shape, size, content)
        if layer.has_bias:
            yield numbers(f"{gguf_layer(layer.name, kind.names)}.bias", shape[:1], torch.float32, biases.pop)

    def encoded(self, name: str, weight: TernaryWeight) -> torch.Tensor:
        """Return the bytes of a weight; InvalidInput where the type does not hold its scales."""
        if self.type is I2_S:
            w_scale = weight.w_scale if not weight.group_size else coarsest_scale(weight.w_scale)
            if w_scale.dim():
                raise InvalidInput(f"format: I2_S holds one scale per tensor, {name} has {w_scale.numel()}")
            return i2_s_bytes(weight.w_packed.view(-1, X86.elements // 4), w_scale, X86.runs[0])
        scales = self.halves(name, block_scales(name, weight, self.type.block))
        return to_blocks(weight.w_packed.view(-1, self.type.block // 4), scales.reshape(-1), self.type).view(-1)

    def halves(self, name: str, scales: torch.Tensor) -> torch.Tensor:
        """Return scales as float16; InvalidInput where they do not stay what they are, and may not be rounded."""
        halves = scales.half()
        moved = float(((halves.float() - scales).abs() / scales.abs().clamp(min=1e-30)).max())
        if not bool(halves.isfinite().all()) or bool(((halves == 0) & (scales != 0)).any()):
            worst = float(scales.abs().amax())
            raise InvalidInput(f"format: {self.type.name} holds scales in float16, those of {name} reach {worst:g}")
        if moved and not self.lossy:
            raise InvalidInput(
                f"format: {self.type.name} holds scales in float16, which moves those of {name} by up to {moved:.1e} "
                "of them; pass lossy=True (--lossy), or use i2_s"
            )
        if moved:
            self.moved[name] = moved
        return halves


def kind_of(config: DecoderConfig) -> ModelKind:
    """Return what the architecture of a model stands for."""
    return KINDS[architecture_of(config)]


def as_stored(weight: TernaryWeight, layer: LinearName, config: DecoderConfig) -> TernaryWeight:
    """Return a weight with its rows and columns in the order of a file."""
    if (net := config.delta_net) is not None:
        is_grouped = weight.rotation is not None and is_behind_heads(layer.name)
        return weight if is_grouped else reorder_layer(weight, layer, net, heads_as_tiled)
    return reordered(weight, layer, config, in_pairs) if kind_of(config).pairs else weight


def numbers(name: str, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[], torch.Tensor]) -> Planned:
    """Return a tensor of floats in a dtype."""
    number, of = DENSE[dtype]
    size = of.size(torch.Size(shape).numel())
    return Planned(name, number, shape, size, lambda: read().to(dtype).contiguous().view(-1).view(torch.uint8))
