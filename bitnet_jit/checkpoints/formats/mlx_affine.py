"""`MlxAffine`: a folder of mlx-lm whose weights are quantized, those of the layers to 2 bits that are ternary.

config.json has "quantization": {group_size, bits, mode "affine"}, and by the path of a module false or other numbers.
A quantized module has

| tensor             | holds                                                                            |
|--------------------|----------------------------------------------------------------------------------|
| `{path}.weight`    | uint32 (out, in * bits / 32), codes from the lowest bits on                      |
| `{path}.scales`    | (out, in / group_size), floats                                                   |
| `{path}.biases`    | as scales; a number is code * scale + bias, ternary where bits = 2, bias = -scale |

Two bits per code from the lowest on are canonical `i2`, so codes are taken as they are. Activations stay floats.
"""

from dataclasses import dataclass, field

import torch

from bitnet_jit.checkpoints.checks import Oddities, check_codes, check_finite
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.hf_storage import FloatTables, read_bias, require_bias
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.packing.i2 import I2
from bitnet_jit.quant.ternary import coarsest_scale

KEY = "quantization"
BITS = (2, 4, 8)  # whose codes do not cross bytes
TERNARY = 2


@dataclass(frozen=True)
class Quantization:
    """How one module is quantized: inputs per scale, and bits per code."""

    group_size: int
    bits: int


@dataclass(frozen=True)
class MlxAffine(FloatTables):
    """Weights of mlx-lm.

    Attributes:
        usual: how modules are quantized.
        others: those that are quantized otherwise, by their paths; None where one is not.
    """

    usual: Quantization
    others: dict[str, Quantization | None] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Return how layers are stored, in words."""
        return f"MLX's {self.usual.bits} bits with scales per {self.usual.group_size} inputs"

    def of(self, files: TensorFiles, path: str) -> Quantization | None:
        """Return how a module is quantized, None where it is floats."""
        return self.others.get(path, self.usual) if f"{path}.scales" in files.entries else None

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there."""
        size = self.others.get(layer.name, self.usual)
        if size is None or size.bits != TERNARY:
            bits = "floats" if size is None else f"{size.bits} bits"
            raise files.error(f"{layer.name}.weight", f"codes of {TERNARY} bits", bits)
        return [*self._require(files, layer, size), *require_bias(files, layer)]

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        size = self.others.get(layer.name, self.usual)
        assert size is not None
        name = f"{layer.name}.weight"
        count = decode(I2.name, files.read(name, out.device).view(torch.uint8), out, layer.in_features)
        scales, biases = (files.read(f"{layer.name}.{kind}") for kind in ("scales", "biases"))
        if not torch.equal(scales, -biases):
            where = int((scales != -biases).any(1).to(torch.uint8).argmax())
            expected = "the negative scales: the weights are not ternary otherwise"
            raise files.error(f"{layer.name}.biases", expected, f"others in row {where}")
        oddities.note_density(name, check_codes(files.place(name), count))
        w_scale = coarsest_scale(check_finite(files.place(f"{layer.name}.scales"), scales).float())
        group_size = size.group_size if w_scale.dim() == 2 else 0
        return TernaryWeight(out, w_scale, read_bias(files, layer), layer.in_features, group_size, "a16")

    def require_table(self, files: TensorFiles, path: str, shape: tuple[int, int]) -> list[str]:
        """Return the names of the tensors of an embedding or a head."""
        if (size := self.of(files, path)) is None:
            return super().require_table(files, path, shape)
        return self._require(files, LinearName(path, *shape, False), size)

    def holds_codes(self, files: TensorFiles, path: str) -> bool:
        """Return whether an embedding or a head has two bits per weight, and is read as a layer is."""
        size = self.of(files, path)
        return size is not None and size.bits == TERNARY

    def read_table(self, files: TensorFiles, path: str, device: torch.device) -> torch.Tensor:
        """Read an embedding or a head of floats, or of codes of more bits, which become float32."""
        if (size := self.of(files, path)) is None:
            return super().read_table(files, path, device)
        packed = files.read(f"{path}.weight", device).view(torch.uint8)
        scales, biases = (files.read(f"{path}.{kind}", device).float() for kind in ("scales", "biases"))
        shifts = torch.arange(0, 8, size.bits, dtype=torch.uint8, device=device)
        codes = (packed[:, :, None] >> shifts & 2**size.bits - 1).flatten(1).unflatten(1, (-1, size.group_size))
        numbers = (codes * scales[:, :, None] + biases[:, :, None]).flatten(1)  # each rounded, as MLX does
        return check_finite(files.place(f"{path}.weight"), numbers)

    def _require(self, files: TensorFiles, layer: LinearName, size: Quantization) -> list[str]:
        """Return the names of the tensors of a quantized module, which must be there."""
        name, inputs = layer.name, layer.in_features
        if inputs % size.group_size:
            raise files.error(f"{name}.weight", f"inputs in groups of {size.group_size}", f"{inputs} of them")
        files.require(f"{name}.weight", (layer.out_features, inputs * size.bits // 32), ("U32",))
        for kind in ("scales", "biases"):
            files.require(f"{name}.{kind}", (layer.out_features, inputs // size.group_size))
        return [f"{name}.{kind}" for kind in ("weight", "scales", "biases")]


def read_mlx(fields: Fields) -> MlxAffine:
    """Return the storage that a "quantization" of config.json describes."""
    others = {name: read_other(fields, name) for name in fields.values if "." in name or name.startswith("lm_head")}
    return MlxAffine(read_quantization(fields), others)


def read_quantization(fields: Fields) -> Quantization:
    """Return how modules are quantized."""
    fields.word("mode", ("affine",), "affine")
    bits = fields.integer("bits")
    if bits not in BITS:
        raise fields.refuse("bits", f"one of {', '.join(map(str, BITS))}")
    group_size = fields.integer("group_size", high=2**16)
    if group_size % 32:
        raise fields.refuse("group_size", "a multiple of 32")
    return Quantization(group_size, bits)


def read_other(fields: Fields, path: str) -> Quantization | None:
    """Return how the module of a path is quantized, None where it is not."""
    if fields.values[path] is False:
        return None
    inner = fields.inner(path)
    return None if inner is None else read_quantization(inner)
