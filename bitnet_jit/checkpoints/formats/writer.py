"""`Writer`: the protocol by which ternary layers become tensors of a format; all formats that are written are folders.

| format          | weight                      | weight_scale           | bias                                    |
|-----------------|-----------------------------|------------------------|-----------------------------------------|
| "autobitlinear" | Hugging Face's, 2 bits      | a multiplier, mean|w|  | divided by it: the reader multiplies it |
| "bitlinear"     | Hugging Face's, 2 bits      | a divisor, 1 / mean|w| | as it is                                |
| "i2", "t5"      | ours, 2 bits or 1.6         | a multiplier, mean|w|  | as it is                                |
"""

from typing import Any, Protocol

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.quant.rotation import ROTATION, SignedBlocks


class Writer(Protocol):
    """One format of ternary layers.

    Attributes:
        name: by which `save` knows it.
        by_transformers: transformers reads it, too; so config.json names dense layers, and norms inside ternary layers.
        activations: with which its files can say that layers run, the usual one first; see `PackedBitLinear`.
    """

    @property
    def name(self) -> str: ...

    @property
    def by_transformers(self) -> bool: ...

    @property
    def activations(self) -> tuple[str, ...]: ...

    def stored_scale(self, scale: torch.Tensor) -> torch.Tensor:
        """Return a scale that multiplies, float32 (1,), as it is stored."""
        ...

    def stored_weight(self, name: str, codes: torch.Tensor) -> torch.Tensor:
        """Return codes, int8 (N, K), as they are stored; InvalidInput names a layer that the format cannot hold."""
        ...

    def weight_shape(self, name: str, out_features: int, in_features: int) -> tuple[int, ...]:
        """Return the shape of a stored weight, which is uint8; InvalidInput names a layer that cannot be held."""
        ...

    def stored_bias(self, name: str, bias: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return a bias (N,) as it is stored beside a scale that multiplies; InvalidInput where it cannot be."""
        ...

    def stored_rotation(self, name: str, rotation: SignedBlocks) -> torch.Tensor:
        """Return the rotation of an input as it is stored; InvalidInput names a layer that the format cannot hold."""
        ...

    def quantization_config(self, eps_inside: float | None, dense: list[str] | None) -> dict[str, Any]:
        """Return the quantization_config of config.json.

        Args:
            eps_inside: of a norm in each ternary layer, None where there are none.
            dense: names of all linear layers that are not ternary; None leaves it to the reader to spare the head.
        """
        ...

    def metadata(self, shapes: dict[str, tuple[int, int]], activation: str = "a8") -> dict[str, str]:
        """Return the metadata of a file of weights, given (N, K) of each by its name, and one of `activations`."""
        ...


def said_activation(activation: str, writer: Writer) -> str:
    """Return with which activations files say that layers run, given those of the first layer."""
    return activation if activation in writer.activations else writer.activations[0]


def check_activation(name: str, activation: str, said: str, writer: Writer, remedy: str = "") -> None:
    """Raise InvalidInput where a layer runs with other activations than its file says; it names what else to do."""
    if activation != said:
        others = "one activation for all layers" if activation in writer.activations else "use i2 or t5"
        raise InvalidInput(
            f"{name}: format {writer.name!r} would run it with activation={said!r}, it was made for {activation!r}; "
            f"{remedy}{others}"
        )


def check_one_scale(config: DecoderConfig) -> None:
    """Raise InvalidInput where a model has parts that no folder with one scale per weight is written with."""
    if config.delta_net is not None:
        raise InvalidInput(
            "model: folders with one scale per weight hold no model with a gated DeltaNet; convert its files to q2_0, "
            "a type of GGUF, or to mlx"
        )


def encoded(
    name: str,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    writer: Writer,
    rotation: SignedBlocks | None = None,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer, given codes int8 (N, K), scale float32 (1,), bias (N,) or None, and rotation.

    Raises:
        InvalidInput: the format cannot hold the layer, which is named.
    """
    stored_scale = writer.stored_scale(scale)
    if not 0 < float(stored_scale) < float("inf"):
        raise InvalidInput(
            f"{name}: its scale {float(scale):g} cannot be stored in format {writer.name!r}, as {float(stored_scale):g}"
        )
    tensors = {f"{name}.weight_scale": stored_scale, f"{name}.weight": writer.stored_weight(name, codes)}
    if rotation is not None:
        tensors[f"{name}.{ROTATION}"] = writer.stored_rotation(name, rotation)
    return tensors if bias is None else tensors | {f"{name}.bias": writer.stored_bias(name, bias, scale)}
