"""Our own format on disk: safetensors with codes along K, five per byte (`t5`) or four (`i2`).

| tensor         | holds                                                          |
|----------------|----------------------------------------------------------------|
| *.weight       | uint8 (N, ceil(K / codes per byte)), a canonical packed weight |
| *.weight_scale | float32 (1,), a multiplier: mean|w|                            |
| *.bias         | as the layer adds it                                           |
| *.rotation     | float32 (K / block, block), the signs of a rotated input       |
| all else       | in its own dtype                                               |

Each file's metadata says version, packing, scale layout, activation mode, and (N, K) of every ternary weight. Names
and config.json are as in Hugging Face's format, but for a quantization_config of `quant_method` "bitnet_jit".
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from bitnet_jit.checkpoints.checks import Oddities, check_codes
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.hf_storage import (
    FloatTables,
    Storage,
    check_unconverted,
    read_bias,
    read_scale,
    require_bias,
    require_scale,
)
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import FORMATS
from bitnet_jit.quant.rotation import ROTATION, SignedBlocks
from bitnet_jit.system.reading import parse_json

VERSION = "1"
METHOD = "bitnet_jit"
SCALE = "tensor"  # the one scale layout of version 1
ACTIVATIONS = ("a8", "a16")  # int8, or floats; of all layers of a file


@dataclass(frozen=True)
class Own(FloatTables):
    """Canonical weights of ours.

    Attributes:
        packing: "i2" or "t5".
    """

    packing: str

    @property
    def description(self) -> str:
        """Return how layers are stored, in words."""
        return f"ours, {self.packing}"

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there."""
        name = f"{layer.name}.weight"
        check_own(files, name, self.packing, layer.out_features, layer.in_features)
        rotation = f"{layer.name}.{ROTATION}"
        names = [name, require_scale(files, layer), *require_bias(files, layer)]
        return [*names, rotation] if rotation in files.entries else names

    def rotation(self, files: TensorFiles, layer: LinearName) -> SignedBlocks | None:
        """Read the rotation of a layer's input, None where it has none."""
        name = f"{layer.name}.{ROTATION}"
        if name not in files.entries:
            return None
        shape = files.entries[name].shape
        if len(shape) != 2 or shape[0] * shape[1] != layer.in_features:
            raise files.error(name, f"signs (K / block, block) of K={layer.in_features}", f"{tuple(shape)}")
        files.require(name, tuple(shape), ("F32",))
        try:
            return SignedBlocks(files.read(name).view(-1), shape[1])
        except InvalidInput as error:
            raise files.error(name, "signs of a rotation", str(error)) from None

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        name = f"{layer.name}.weight"
        count = decode(self.packing, files.read(name, out.device), out, layer.in_features)
        oddities.note_density(name, check_codes(files.place(name), count))
        scale = read_scale(files, layer, False, oddities)
        rotation = self.rotation(files, layer)
        activation = files.metadata(name)["activation"]
        bias = read_bias(files, layer)
        return TernaryWeight(out, scale, bias, layer.in_features, activation=activation, rotation=rotation)


def read_own(fields: Fields) -> Storage:
    """Return the storage that a quantization_config describes."""
    check_unconverted(fields)
    return Own(fields.word("packing", tuple(FORMATS)))


def metadata_of(packing: str, activation: str) -> dict[str, str]:
    """Return the metadata of a file, without the shapes of its weights."""
    return {"bitnet_jit": VERSION, "packing": packing, "scale": SCALE, "activation": activation}


def check_own(files: TensorFiles, name: str, packing: str, out_features: int, in_features: int) -> None:
    """Raise CheckpointError unless a weight is there, and its file's metadata is that of this version."""
    packed_shape, shape = FORMATS[packing].packed_shape(out_features, in_features), [out_features, in_features]
    said = files.metadata(name) if name in files.entries else {}
    activation = said.get("activation")
    for key, value in metadata_of(packing, activation if activation in ACTIVATIONS else ACTIVATIONS[0]).items():
        if name in files.entries and said.get(key) != value:
            of = "format version" if key == "bitnet_jit" else key
            raise files.error(name, f"{of} {value!r} in the file's metadata", f"{said.get(key)!r}")
    files.require(name, packed_shape, ("U8",))
    stored_shape = stored_shapes(said.get("shapes", "{}")).get(name)
    if stored_shape != shape:
        raise files.error(name, f"the shape {shape} in the file's metadata", f"{stored_shape}")


@lru_cache(maxsize=8)
def stored_shapes(shapes: str) -> dict[str, Any]:
    """Return (N, K) of each weight as a file's metadata says; nothing where it makes no sense."""
    try:
        parsed = parse_json(shapes)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
