"""`MlxTarget`: a folder of mlx-lm, made of a model with float activations; see `mlx_affine.py` for the way back."""

from dataclasses import dataclass, field
from typing import Any

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, hf_tensor
from bitnet_jit.checkpoints.formats.mlx_affine import KEY, TERNARY
from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.fused_layers import per_group
from bitnet_jit.checkpoints.ternary import TernaryWeight, empty_i2
from bitnet_jit.errors import InvalidInput

SIZES = (128, 64, 32)  # inputs per scale, of which MLX has kernels
METADATA = {"format": "mlx"}


@dataclass
class MlxTarget:
    """A folder of mlx-lm to be made of a model.

    Attributes:
        lossy: whether int8 activations may become floats; else such a model is refused.
        floats: the names of layers whose activations became floats.
    """

    lossy: bool = False
    floats: list[str] = field(default_factory=list)

    def files(self, reader: Reader) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the tensors and the config.json of a reader that is open.

        Raises:
            InvalidInput: mlx-lm has no such model, or a layer does not fit; it is named.
        """
        config = reader.config
        if config.sub_norms:
            raise InvalidInput("format: mlx-lm reads BitNet's models as transformers does: use autobitlinear")
        size = group_size(reader)
        quantization: dict[str, Any] = {"group_size": size, "bits": TERNARY, "mode": "affine"}
        tensors: dict[str, torch.Tensor] = {}
        for name, shape in outer_shapes(config).items():
            if len(shape) == 2 and reader.holds_codes(name):
                tensors |= self.layer(reader, LinearName(name, shape[0], shape[1], False), size)
            else:
                tensors[hf_tensor(name)] = reader.dense(name)
                quantization |= {hf_layer(name): False} if len(shape) == 2 else {}
        for index in range(config.num_layers):
            names = block_names(config, index)
            tensors |= {hf_tensor(name): reader.dense(name) for name, _ in names.norms(config)}
            for layers in names.linears:
                for layer in layers:
                    tensors |= self.layer(reader, layer, size)
        said = config_json(config, OwnWriter("i2"), tensors[hf_tensor("norm")].dtype)
        return tensors, {**said, KEY: quantization, "quantization_config": quantization}

    def layer(self, reader: Reader, layer: LinearName, size: int) -> dict[str, torch.Tensor]:
        """Return the tensors of a ternary layer."""
        weight = reader.ternary(layer, empty_i2(layer.out_features, layer.in_features))
        path = hf_layer(layer.name)
        if weight.activation == "a8":
            if not self.lossy:
                raise InvalidInput(
                    f"format: mlx-lm takes float activations, and {path} was made for int8; pass lossy=True (--lossy)"
                )
            self.floats.append(path)
        scales = as_stored(fine_scales(path, weight, size))
        tensors = {f"{path}.weight": weight.w_packed.contiguous().view(torch.uint32)}
        tensors |= {f"{path}.scales": scales, f"{path}.biases": -scales}
        return tensors if weight.bias is None else tensors | {f"{path}.bias": weight.bias}


def group_size(reader: Reader) -> int:
    """Return the most inputs per scale that every layer's inputs are a multiple of."""
    config = reader.config
    widths = (config.hidden_size, config.q_features, config.intermediate_size)
    finest = min((weight_size(reader, index) for index in range(config.num_layers)), default=SIZES[0])
    for size in SIZES:
        if all(width % size == 0 for width in widths) and finest % size == 0:
            return size
    raise InvalidInput(f"format: MLX has a scale per 32, 64 or 128 inputs, which {widths} are no multiples of")


def weight_size(reader: Reader, index: int) -> int:
    """Return the inputs per scale of a block's last layer; that of the widest where it has no groups."""
    layer = block_names(reader.config, index).down[0]
    weight = reader.ternary(layer, empty_i2(layer.out_features, layer.in_features))
    return weight.group_size or SIZES[0]


def fine_scales(path: str, weight: TernaryWeight, size: int) -> torch.Tensor:
    """Return the scales of a weight per `size` inputs, (N, K / size)."""
    if weight.group_size % size:
        raise InvalidInput(f"format: {path} has a scale per {weight.group_size} inputs, others one per {size}")
    return per_group(weight, size).contiguous()


def as_stored(scales: torch.Tensor) -> torch.Tensor:
    """Return scales in the smallest dtype that holds them: bfloat16, float16, or float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scales.to(dtype).float(), scales):
            return scales.to(dtype)
    return scales
