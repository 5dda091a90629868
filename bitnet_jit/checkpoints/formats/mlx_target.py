"""`MlxTarget`: a folder of mlx-lm, made of a model with float activations; see `mlx_affine.py` for the way back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from bitnet_jit.checkpoints.decoder_layers import dense_tensors, ternary_layers
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM, HEAD
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_names import hf_layer, hf_tensor
from bitnet_jit.checkpoints.formats.mlx_affine import KEY, TERNARY
from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.fused_layers import per_group, read_joint
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig

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
        weights = {hf_layer(layer.name): read_joint(reader, [layer]) for layer in ternary_layers(reader)}
        size = group_size(config, weights.values())
        tensors = {hf_tensor(name): reader.dense(name) for name in dense_tensors(reader)}
        for path, weight in weights.items():
            tensors |= self.layer(path, weight, size)
        quantization: dict[str, Any] = {"group_size": size, "bits": TERNARY, "mode": "affine"}
        tables = [hf_layer(name) for name in (EMBEDDING, HEAD)]
        quantization |= {path: False for path in tables if f"{path}.weight" in tensors and path not in weights}
        said = config_json(config, OwnWriter("i2"), tensors[hf_tensor(FINAL_NORM)].dtype)
        return tensors, {**said, KEY: quantization, "quantization_config": quantization}

    def layer(self, path: str, weight: TernaryWeight, size: int) -> dict[str, torch.Tensor]:
        """Return the tensors of a ternary layer."""
        if weight.rotation is not None:
            raise InvalidInput(f"format: mlx-lm rotates no inputs of such models, {path} has {weight.rotation}")
        if weight.activation == "a8":
            if not self.lossy:
                raise InvalidInput(
                    f"format: mlx-lm takes float activations, and {path} was made for int8; pass lossy=True (--lossy)"
                )
            self.floats.append(path)
        scales = as_stored(per_group(weight, size).contiguous())
        tensors = {f"{path}.weight": weight.w_packed.contiguous().view(torch.uint32)}
        tensors |= {f"{path}.scales": scales, f"{path}.biases": -scales}
        return tensors if weight.bias is None else tensors | {f"{path}.bias": weight.bias}


def group_size(config: DecoderConfig, weights: Iterable[TernaryWeight]) -> int:
    """Return the most inputs per scale that all weights of a model can have."""
    common = math.gcd(*(size for weight in weights for size in (weight.in_features, weight.group_size)))
    for size in SIZES:
        if common % size == 0:
            return size
    widths = (config.hidden_size, config.q_features, config.intermediate_size)
    raise InvalidInput(f"format: MLX has a scale per 32, 64 or 128 inputs, which {widths} are no multiples of")


def as_stored(scales: torch.Tensor) -> torch.Tensor:
    """Return scales in the smallest dtype that holds them: bfloat16, float16, or float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scales.to(dtype).float(), scales):
            return scales.to(dtype)
    return scales
