"""`Storage`: a way in which a folder of Hugging Face holds its ternary layers, and the parts that several share."""

from typing import Protocol

import torch

from bitnet_jit.checkpoints.checks import Oddities, check_finite, multiplier
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.file_names import CONFIG
from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.quant.rotation import SignedBlocks

NEVER_TERNARY = {"lm_head", "embed_tokens", "model.embed_tokens", "norm", "model.norm"}


class Storage(Protocol):
    """One way of holding ternary layers, which come by their names in the files."""

    @property
    def description(self) -> str:
        """Return how layers are stored, in words."""
        ...

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors.

        Raises:
            CheckpointError: one is not there with the right shape and dtype, or its file says something else of it.
        """
        ...

    def require_table(self, files: TensorFiles, path: str, shape: tuple[int, int]) -> list[str]:
        """Return the names of the tensors of an embedding or a head by its path; errors are those of `require`."""
        ...

    def holds_codes(self, files: TensorFiles, path: str) -> bool:
        """Return whether an embedding or a head is ternary codes, to be read as a layer is."""
        ...

    def read_table(self, files: TensorFiles, path: str, device: torch.device) -> torch.Tensor:
        """Read an embedding or a head, finite floats (V, K)."""
        ...

    def rotation(self, files: TensorFiles, layer: LinearName) -> SignedBlocks | None:
        """Return the rotation of a layer's input, None where it has none."""
        ...

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer that was required before, its codes into `out`, uint8 (N, ceil(K / 4)).

        Raises:
            CheckpointError: a code is 3, a scale is not positive and finite, or a value is not finite.
        """
        ...


class FloatTables:
    """Embeddings and heads as most storages have them: floats."""

    def require_table(self, files: TensorFiles, path: str, shape: tuple[int, int]) -> list[str]:
        """Return the name of the tensor of an embedding or a head, which must be there."""
        files.require(f"{path}.weight", shape)
        return [f"{path}.weight"]

    def holds_codes(self, files: TensorFiles, path: str) -> bool:  # noqa: ARG002
        """Return that they are floats."""
        return False

    def rotation(self, files: TensorFiles, layer: LinearName) -> SignedBlocks | None:  # noqa: ARG002
        """Return that inputs are not rotated, as in most storages."""
        return None

    def read_table(self, files: TensorFiles, path: str, device: torch.device) -> torch.Tensor:
        """Read an embedding or a head in its own dtype."""
        name = f"{path}.weight"
        return check_finite(files.place(name), files.read(name, device))


class FloatWeights(FloatTables):
    """Layers whose weights are floats too, to be made codes as they are read."""

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there."""
        files.require(f"{layer.name}.weight", (layer.out_features, layer.in_features))
        return [f"{layer.name}.weight", *require_bias(files, layer)]


def check_unconverted(fields: Fields) -> None:
    """Raise CheckpointError unless the head is all that modules_to_not_convert leaves dense (a null does so)."""
    names = fields.words("modules_to_not_convert")
    if names is not None and ("lm_head" not in names or not set(names) <= NEVER_TERNARY):
        raise fields.refuse("modules_to_not_convert", "null or ['lm_head']: every other linear layer must be ternary")


def require_scale(files: TensorFiles, layer: LinearName) -> str:
    """Return the name of a layer's scale, which must be there with one element."""
    name = f"{layer.name}.weight_scale"
    entry = files.entries.get(name)
    files.require(name, () if entry is not None and entry.shape == () else (1,))
    return name


def require_bias(files: TensorFiles, layer: LinearName) -> list[str]:
    """Return the name of a layer's bias where it has one, which then must be there."""
    if not layer.has_bias:
        return []
    files.require(f"{layer.name}.bias", (layer.out_features,))
    return [f"{layer.name}.bias"]


def read_scale(files: TensorFiles, layer: LinearName, divides: bool, oddities: Oddities) -> torch.Tensor:
    """Read a layer's scale as float32 () that multiplies."""
    name = f"{layer.name}.weight_scale"
    stored = files.read(name)
    scale = multiplier(files.place(name), stored, divides)
    oddities.note_scale(name, stored.item(), divides, CONFIG)
    return scale


def read_bias(files: TensorFiles, layer: LinearName) -> torch.Tensor | None:
    """Read a layer's bias, float32 (N,), None where it has none."""
    if not layer.has_bias:
        return None
    name = f"{layer.name}.bias"
    return check_finite(files.place(name), files.read(name)).float()
