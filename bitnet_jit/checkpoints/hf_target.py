"""`HfTarget`: a folder of a format of `save`, made of a model in files, tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from bitnet_jit.checkpoints.building import Builder
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM, HEAD, LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.decoder_tensors import parted
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_floats import SAME, usual_forms
from bitnet_jit.checkpoints.formats.hf_names import HfNames, names_for
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors
from bitnet_jit.checkpoints.formats.writer import (
    Writer,
    check_activation,
    check_one_scale,
    encoded,
    said_activation,
)
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig, Multipliers
from bitnet_jit.quant.rotation import ROTATION


@dataclass(frozen=True)
class HfTarget:
    """A folder to be made of the model of a reader that is open.

    Attributes:
        reader: of the model.
        writer: of the ternary layers.
        lossy: whether float activations may become int8 where the format holds no others; else such a model is refused.
        integers: the names of layers whose activations became int8.
    """

    reader: Reader
    writer: Writer
    lossy: bool = False
    integers: list[str] = field(default_factory=list)

    @property
    def config(self) -> DecoderConfig:
        """Return the architecture of what is written: multipliers are in scales and norms, but for Gemma's."""
        config = self.reader.config
        return config if config.branch_norms else replace(config, multipliers=Multipliers())

    @property
    def pooling(self) -> str | None:
        """Return how texts become vectors."""
        return self.reader.pooling()

    @cached_property
    def names(self) -> HfNames:
        """Return the names in the folder."""
        return names_for(self.config)

    @cached_property
    def activation(self) -> str:
        """Return with which activations the file says that layers run."""
        first = block_names(self.reader.config, 0).attention.output
        return said_activation(read_joint(self.reader, first).activation, self.writer)

    def config_json(self) -> dict[str, Any]:
        """Return the content of config.json; InvalidInput where such folders hold no model like it."""
        check_one_scale(self.reader.config)
        return config_json(self.config, self.writer, self.dtype_of(EMBEDDING))

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        layers = [layer for layer, _ in self.layers()]
        shapes = {f"{self.names.layer(layer.name)}.weight": (layer.out_features, layer.in_features) for layer in layers}
        return self.writer.metadata(shapes, self.activation)

    def tensors(self) -> list[PlannedTensors]:
        """Return all tensors, to be read as they are written.

        Raises:
            InvalidInput: the format holds no ternary embedding; by `content`: it cannot hold a layer or a norm, which
                is named.
        """
        config, builder = self.reader.config, Builder(self.reader, CPU)
        planned = [self.outer(builder, name, shape) for name, shape in outer_shapes(config).items()]
        for index in range(config.num_layers):
            planned += [self.norm(*norm) for norm in block_names(config, index).floats(config)]
        return planned + [self.linear(builder, layer, multiplier) for layer, multiplier in self.layers()]

    def layers(self) -> Iterator[tuple[LinearName, float]]:
        """Yield each ternary layer of the blocks, with what its outputs are multiplied by."""
        residual = self.reader.config.multipliers.residual
        for index in range(self.reader.config.num_layers):
            names = block_names(self.reader.config, index)
            for joint, multiplier in zip(names.linears, (1.0, residual, 1.0, residual), strict=True):
                yield from ((layer, multiplier) for layer in joint)

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which an embedding, a head or a norm is written."""
        if usual_forms(self.config).of(name) is not SAME:
            return torch.float32
        if (multipliers := self.multiplied) is not None and (
            name == FINAL_NORM or (name == EMBEDDING and multipliers.embedding != 1.0)
        ):
            return made(Builder(self.reader, CPU), name).dtype  # float32 where its own would round
        return self.reader.dtype_of(name)

    @property
    def multiplied(self) -> Multipliers | None:
        """Return what is multiplied into embedding and last norm, None where nothing is."""
        multipliers = self.reader.config.multipliers
        return None if multipliers == self.config.multipliers else multipliers

    def outer(self, builder: Builder, name: str, shape: tuple[int, ...]) -> PlannedTensors:
        """Return an embedding, a head or the last norm."""
        if len(shape) == 2 and self.reader.holds_codes(name):
            raise InvalidInput(
                f"format: {self.writer.name!r} holds floats, {name} is ternary; use a type of GGUF or mlx"
            )
        if self.multiplied is None:
            return self.norm(name, shape)
        stored = self.names.tensor(name)
        return PlannedTensors({stored: (self.dtype_of(name), shape)}, lambda: {stored: made(builder, name)})

    def norm(self, name: str, shape: tuple[int, ...]) -> PlannedTensors:
        """Return a norm, or a table that nothing is multiplied into."""
        stored, forms = self.names.tensor(name), usual_forms(self.config)
        return PlannedTensors(
            {stored: (self.dtype_of(name), shape)},
            lambda: {stored: forms.exactly(name, stored, self.reader.dense(name))},
        )

    def linear(self, builder: Builder, layer: LinearName, multiplier: float) -> PlannedTensors:
        """Return the weight of a ternary layer, its scale, its bias and its rotation."""
        path, sizes = self.names.layer(layer.name), (layer.out_features, layer.in_features)
        shapes = {
            f"{path}.weight": (torch.uint8, self.writer.weight_shape(path, *sizes)),
            f"{path}.weight_scale": (torch.float32, (1,)),
        }
        if layer.has_bias:
            shapes[f"{path}.bias"] = (torch.float32, sizes[:1])
        if (rotation := self.reader.rotation(layer)) is not None:
            signs = self.writer.stored_rotation(path, rotation)
            shapes[f"{path}.{ROTATION}"] = (signs.dtype, tuple(signs.shape))

        def content() -> dict[str, torch.Tensor]:
            packed = builder.linear([layer], multiplier)
            self.check_activation(path, packed.activation)
            ((name, codes, scale, bias),) = parted([layer], packed)
            return encoded(name, codes, scale, None if bias is None else bias.float(), self.writer, rotation)

        return PlannedTensors(shapes, content)

    def check_activation(self, path: str, activation: str) -> None:
        """Note a layer whose activations become int8; InvalidInput where they may not."""
        if self.lossy and (activation, self.activation) == ("a16", "a8"):
            self.integers.append(path)
        else:
            check_activation(path, activation, self.activation, self.writer, "pass lossy=True (--lossy), or ")


def made(builder: Builder, name: str) -> torch.Tensor:
    """Return an embedding, a head or the last norm as it is written."""
    stored = {EMBEDDING: builder.embedding, HEAD: builder.head}.get(name, lambda: builder.final_norm().weight)()
    assert isinstance(stored, torch.Tensor)
    return stored
