"""`PrismMlx`: MLX folders of `prism_hadamard_qwen35`: Qwen3.5 whose 2-bit modules rotate their inputs.

config.json lists the modules: {path, block, embedding, dtype}; a block of 0 rotates nothing. Their tensors begin with
`language_model.`, and a rotated one has `{path}.signs`, float32 of 1 and -1, besides those of `mlx_affine.py`. Heads
of values stand in Hugging Face's order, norms are whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bitnet_jit.checkpoints.checks import Oddities
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.fields import REQUIRED, Fields
from bitnet_jit.checkpoints.formats.hf_names import MLX_TEXT
from bitnet_jit.checkpoints.formats.mlx_affine import KEY, TERNARY, MlxAffine, Quantization
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput
from bitnet_jit.quant.rotation import SignedBlocks

MODEL_TYPE = "prism_hadamard_qwen35"
BASE = "qwen3_5"  # the model_type of the same model without rotations
BEGINNING = f"{MLX_TEXT}."  # of the names of all tensors
TABLE = "embed_tokens"  # the end of the embedding's path
BLOCKS = (0, 512, 1024, 2048, 4096, 8192)
DTYPE = "float16"  # of a module's activations
NAMESPACES = {1: "mlx-lm-text", 2: "mlx-vlm-qwen3_5"}  # by schema_version
GROUP = 128
SIZE = {"group_size": GROUP, "bits": TERNARY, "mode": "affine"}
LAYOUT = "grouped"  # heads of values in Hugging Face's order


@dataclass(frozen=True)
class PrismMlx(MlxAffine):
    """Modules of two bits, some of which rotate their inputs.

    Attributes:
        blocks: inputs that one transform mixes, by the path of a module; 0 where none are.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Return how layers are stored, in words."""
        return f"{super().description}, rotated by Hadamard transforms"

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there."""
        return [*super().require(files, layer), *self._require_signs(files, layer)]

    def require_table(self, files: TensorFiles, path: str, shape: tuple[int, int]) -> list[str]:
        """Return the names of the tensors of an embedding or a head."""
        names = super().require_table(files, path, shape)
        return [*names, *self._require_signs(files, LinearName(path, *shape, False))] if len(names) > 1 else names

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        weight = super().read(files, layer, out, oddities)
        return replace(weight, rotation=self.rotation(files, layer))

    def rotation(self, files: TensorFiles, layer: LinearName) -> SignedBlocks | None:
        """Read the rotation of a layer's input, None where it has none."""
        if not (block := self._block(files, layer)):
            return None
        name = f"{layer.name}.signs"
        try:
            return SignedBlocks(files.read(name), block)
        except InvalidInput as error:
            raise files.error(name, "signs that are 1 or -1", str(error)) from None

    def _block(self, files: TensorFiles, layer: LinearName) -> int:
        """Return the size of a module's transforms; raise CheckpointError where config.json does not list it."""
        block = self.blocks.get(layer.name.removeprefix(BEGINNING))
        if block is None:
            raise files.error(f"{layer.name}.weight", "a module that config.json lists in modules", "none")
        return block

    def _require_signs(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the name of a module's signs where it rotates, which then must be there."""
        if not (block := self._block(files, layer)):
            return []
        if layer.in_features % block:
            raise files.error(f"{layer.name}.weight", f"inputs in blocks of {block}", f"{layer.in_features} of them")
        files.require(f"{layer.name}.signs", (layer.in_features,), ("F32",))
        return [f"{layer.name}.signs"]


def read_prism(fields: Fields) -> PrismMlx:
    """Return the storage that a config.json of the type describes.

    Raises:
        CheckpointError: a field is missing or another than the type has; it names the field.
    """
    fields.word("base_model_type", (BASE,))
    version = fields.integer("schema_version", low=1, high=max(NAMESPACES))
    fields.word("tensor_namespace", (NAMESPACES[version],))
    fields.word("gdn_activation_layout", (LAYOUT,))
    if fields.flag("tie_word_embeddings", False):
        raise fields.refuse("tie_word_embeddings", "false")
    size = fields.inner(KEY)
    if size is None or size.values != SIZE:
        raise fields.refuse(KEY, str(SIZE))
    return PrismMlx(Quantization(GROUP, TERNARY), {}, read_modules(fields))


def read_modules(fields: Fields) -> dict[str, int]:
    """Return the block of each module by its path."""
    listed: Any = fields.take("modules", REQUIRED, "a list of modules")
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise fields.refuse("modules", "a list of objects")
    blocks: dict[str, int] = {}
    for place, values in enumerate(listed):
        module = Fields(values, f"{fields.where}: modules[{place}]")
        path, block = module.take("path", REQUIRED, "the path of a module"), module.integer("block", low=0)
        if not isinstance(path, str) or path in blocks:
            raise module.refuse("path", "the path of a module, each once")
        if block not in BLOCKS:
            raise module.refuse("block", f"one of {', '.join(map(str, BLOCKS))}")
        if module.flag("embedding", False) != path.endswith(TABLE):
            raise module.refuse("embedding", "true for the embedding alone")
        module.word("dtype", (DTYPE,), DTYPE)
        blocks[path] = block
    return blocks


def prism_json(blocks: Mapping[str, int]) -> dict[str, Any]:
    """Return what a config.json of the type says besides, given the block of each packed module by its path."""
    paths = {path.removeprefix(BEGINNING): block for path, block in blocks.items()}
    modules = [
        {"path": path, "block": block, "embedding": path.endswith(TABLE), "dtype": DTYPE}
        for path, block in paths.items()
    ]
    return {
        "model_type": MODEL_TYPE,
        "base_model_type": BASE,
        "schema_version": 1,
        "tensor_namespace": NAMESPACES[1],
        "gdn_activation_layout": LAYOUT,
        KEY: SIZE,
        "modules": modules,
    }


def check_modules(blocks: Mapping[str, int], layers: Mapping[str, LinearName]) -> None:
    """Raise InvalidInput where the type cannot hold a module, given blocks and layers by the modules' paths."""
    for path, layer in layers.items():
        if blocks[path] not in BLOCKS or layer.in_features % max(1, blocks[path]):
            sizes = ", ".join(map(str, BLOCKS[1:]))
            raise InvalidInput(
                f"format: mlx-lm rotates inputs in blocks of {sizes}, {path} in blocks of {blocks[path]}; use q2_0"
            )
        if layer.has_bias:
            raise InvalidInput(f"format: in mlx-lm's models that rotate no layer has a bias, {path} has one; use q2_0")
