"""`HfTarget`: a folder of a format of `save`, made of a model in files, tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitnet_jit.checkpoints.building import Builder
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM, HEAD, LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.decoder_tensors import parted
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, hf_tensor
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors
from bitnet_jit.checkpoints.formats.writer import Writer, check_one_scale, encoded
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig, Multipliers


@dataclass(frozen=True)
class HfTarget:
    """A folder to be made of the model of a reader that is open.

    Attributes:
        reader: of the model.
        writer: of the ternary layers.
    """

    reader: Reader
    writer: Writer

    @property
    def config(self) -> DecoderConfig:
        """Return the architecture of what is written: multipliers are in scales and norms."""
        return replace(self.reader.config, multipliers=Multipliers())

    def config_json(self) -> dict[str, Any]:
        """Return the content of config.json; InvalidInput where such folders hold no model like it."""
        check_one_scale(self.reader.config)
        return config_json(self.config, self.writer, self.dtype_of(EMBEDDING))

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        layers = [layer for layer, _ in self.layers()]
        return self.writer.metadata(
            {f"{hf_layer(layer.name)}.weight": (layer.out_features, layer.in_features) for layer in layers}
        )

    def tensors(self) -> list[PlannedTensors]:
        """Return all tensors, to be read as they are written.

        Raises:
            InvalidInput: the format holds no ternary embedding; by `content`: it cannot hold a layer, which is named.
        """
        config, builder = self.reader.config, Builder(self.reader, CPU)
        planned = [self.outer(builder, name, shape) for name, shape in outer_shapes(config).items()]
        for index in range(config.num_layers):
            planned += [self.norm(builder, *norm) for norm in block_names(config, index).floats(config)]
        return planned + [self.linear(builder, layer, multiplier) for layer, multiplier in self.layers()]

    def layers(self) -> Iterator[tuple[LinearName, float]]:
        """Yield each ternary layer of the blocks, with what its outputs are multiplied by."""
        residual = self.reader.config.multipliers.residual
        for index in range(self.reader.config.num_layers):
            names = block_names(self.reader.config, index)
            for joint, multiplier in zip(names.linears, (1.0, residual, 1.0, residual), strict=True):
                yield from ((layer, multiplier) for layer in joint)

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which an embedding, a head or the last norm is written."""
        multipliers = self.reader.config.multipliers
        if name == EMBEDDING and multipliers.embedding != 1.0:
            return made(Builder(self.reader, CPU), name).dtype  # float32 where its own would round
        if name == FINAL_NORM and multipliers != Multipliers():
            return made(Builder(self.reader, CPU), name).dtype
        return self.reader.dtype_of(name)

    def outer(self, builder: Builder, name: str, shape: tuple[int, ...]) -> PlannedTensors:
        """Return an embedding, a head or the last norm."""
        if len(shape) == 2 and self.reader.holds_codes(name):
            raise InvalidInput(
                f"format: {self.writer.name!r} holds floats, {name} is ternary; use a type of GGUF or mlx"
            )
        stored = hf_tensor(name)
        return PlannedTensors({stored: (self.dtype_of(name), shape)}, lambda: {stored: made(builder, name)})

    def norm(self, builder: Builder, name: str, shape: tuple[int, ...]) -> PlannedTensors:
        """Return a norm of a block."""
        stored = hf_tensor(name)
        shapes = {stored: (self.reader.dtype_of(name), shape)}
        return PlannedTensors(shapes, lambda: {stored: builder.norm(name).weight})

    def linear(self, builder: Builder, layer: LinearName, multiplier: float) -> PlannedTensors:
        """Return the weight of a ternary layer, its scale, and its bias."""
        path, sizes = hf_layer(layer.name), (layer.out_features, layer.in_features)
        shapes = {
            f"{path}.weight": (torch.uint8, self.writer.weight_shape(path, *sizes)),
            f"{path}.weight_scale": (torch.float32, (1,)),
        }
        if layer.has_bias:
            shapes[f"{path}.bias"] = (torch.float32, sizes[:1])

        def content() -> dict[str, torch.Tensor]:
            ((name, codes, scale, bias),) = parted([layer], builder.linear([layer], multiplier))
            return encoded(name, codes, scale, None if bias is None else bias.float(), self.writer)

        return PlannedTensors(shapes, content)


def made(builder: Builder, name: str) -> torch.Tensor:
    """Return an embedding, a head or the last norm as it is written."""
    stored = {EMBEDDING: builder.embedding, HEAD: builder.head}.get(name, lambda: builder.final_norm().weight)()
    assert isinstance(stored, torch.Tensor)
    return stored
