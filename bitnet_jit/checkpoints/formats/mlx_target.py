"""`MlxTarget`: a folder of mlx-lm, made of a model with float activations; see `mlx_affine.py` for the way back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from bitnet_jit.checkpoints.decoder_layers import dense_tensors, ternary_layers
from bitnet_jit.checkpoints.decoder_names import FINAL_NORM, LinearName, outer_shapes
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, hf_tensor
from bitnet_jit.checkpoints.formats.mlx_affine import KEY, TERNARY
from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors
from bitnet_jit.checkpoints.fused_layers import per_group, read_joint
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig

CODES = 16  # in an element of a weight
SIZES = (128, 64, 32)  # inputs per scale, of which MLX has kernels
METADATA = {"format": "mlx"}


class Needed(NamedTuple):
    """What is to be known of a weight before any is written: inputs per scale, or 0, and the dtype of its scales."""

    group_size: int
    dtype: torch.dtype


@dataclass
class MlxTarget:
    """A folder of mlx-lm to be made of a model.

    Attributes:
        lossy: whether int8 activations may become floats; else such a model is refused.
        floats: the names of layers whose activations became floats.
    """

    lossy: bool = False
    floats: list[str] = field(default_factory=list)

    def plan(self, reader: Reader) -> tuple[list[PlannedTensors], dict[str, Any]]:
        """Return the tensors, to be read as they are written, and the config.json of a reader that is open.

        Raises:
            InvalidInput: mlx-lm has no such model, or a layer does not fit; it is named.
        """
        config = reader.config
        if config.sub_norms:
            raise InvalidInput("format: mlx-lm reads BitNet's models as transformers does: use autobitlinear")
        layers = {layer: self.needed(layer, read_joint(reader, [layer])) for layer in ternary_layers(reader)}
        size = group_size(config, [(layer.in_features, needed.group_size) for layer, needed in layers.items()])
        planned = [dense_part(reader, name) for name in dense_tensors(reader)]
        planned += [layer_part(reader, layer, needed.dtype, size) for layer, needed in layers.items()]
        quantization: dict[str, Any] = {"group_size": size, "bits": TERNARY, "mode": "affine"}
        paths = {hf_layer(layer.name) for layer in layers}
        tables = [hf_layer(name) for name, shape in outer_shapes(config).items() if len(shape) == 2]
        quantization |= {path: False for path in tables if path not in paths}
        said = config_json(config, OwnWriter("i2"), reader.dtype_of(FINAL_NORM))
        return planned, {**said, KEY: quantization, "quantization_config": quantization}

    def needed(self, layer: LinearName, weight: TernaryWeight) -> Needed:
        """Return what is to be known of a weight before any is written; InvalidInput where it was made for int8."""
        if weight.rotation is not None:
            raise InvalidInput(
                f"format: mlx-lm rotates no inputs of such models, {hf_layer(layer.name)} has {weight.rotation}"
            )
        if weight.activation == "a8":
            path = hf_layer(layer.name)
            if not self.lossy:
                raise InvalidInput(
                    f"format: mlx-lm takes float activations, and {path} was made for int8; pass lossy=True (--lossy)"
                )
            self.floats.append(path)
        return Needed(weight.group_size, stored_dtype(weight.w_scale))


def dense_part(reader: Reader, name: str) -> PlannedTensors:
    """Return an embedding, a head or a norm."""
    stored, shape = hf_tensor(name), outer_shapes(reader.config).get(name)
    features = shape or (len(reader.dense(name)),)
    return PlannedTensors({stored: (reader.dtype_of(name), features)}, lambda: {stored: reader.dense(name)})


def layer_part(reader: Reader, layer: LinearName, dtype: torch.dtype, size: int) -> PlannedTensors:
    """Return the tensors of a ternary layer, scales in a dtype and for so many inputs each."""
    path, rows, groups = hf_layer(layer.name), layer.out_features, layer.in_features // size
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        f"{path}.weight": (torch.uint32, (rows, layer.in_features // CODES)),
        f"{path}.scales": (dtype, (rows, groups)),
        f"{path}.biases": (dtype, (rows, groups)),
    }
    if layer.has_bias:
        shapes[f"{path}.bias"] = (torch.float32, (rows,))

    def content() -> dict[str, torch.Tensor]:
        weight = read_joint(reader, [layer])
        scales = per_group(weight, size).contiguous().to(dtype)
        tensors = {f"{path}.weight": weight.w_packed.contiguous().view(torch.uint32)}
        tensors |= {f"{path}.scales": scales, f"{path}.biases": -scales}
        return tensors if weight.bias is None else tensors | {f"{path}.bias": weight.bias.float()}

    return PlannedTensors(shapes, content)


def group_size(config: DecoderConfig, sizes: Iterable[tuple[int, int]]) -> int:
    """Return the most inputs per scale that all weights of a model can have, given inputs and group size of each."""
    common = math.gcd(*(size for pair in sizes for size in pair))
    for size in SIZES:
        if common % size == 0:
            return size
    widths = (config.hidden_size, config.q_features, config.intermediate_size)
    raise InvalidInput(f"format: MLX has a scale per 32, 64 or 128 inputs, which {widths} are no multiples of")


def stored_dtype(scales: torch.Tensor) -> torch.dtype:
    """Return the smallest dtype that holds scales: bfloat16, float16, or float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scales.to(dtype).float(), scales):
            return dtype
    return torch.float32
