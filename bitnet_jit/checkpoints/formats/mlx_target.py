"""`MlxTarget`: a folder of mlx-lm, made of a model with float activations; see `mlx_affine.py` for the way back.

Qwen3.5 is written as mlx-lm's `qwen3_5`, or, where layers rotate their inputs, as `prism_mlx.py` reads it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from bitnet_jit.checkpoints.decoder_layers import dense_tensors, ternary_layers
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM, HEAD, LinearName, outer_shapes
from bitnet_jit.checkpoints.formats.block_scales import block_scales
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_floats import SAME, mlx_forms
from bitnet_jit.checkpoints.formats.hf_names import mlx_names
from bitnet_jit.checkpoints.formats.intervals import interval_of
from bitnet_jit.checkpoints.formats.mlx_affine import KEY, TERNARY
from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
from bitnet_jit.checkpoints.formats.prism_mlx import BASE, GROUP, check_modules, prism_json
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig

CODES = 16  # in an element of a weight
SIZES = (128, 64, 32)  # inputs per scale, of which MLX has kernels
METADATA = {"format": "mlx"}


class Needed(NamedTuple):
    """What is to be known of a weight before any is written.

    Attributes:
        group_size: inputs per scale, or 0.
        dtype: of its scales.
        block: inputs that its rotation mixes, 0 where it has none.
    """

    group_size: int
    dtype: torch.dtype
    block: int


@dataclass
class MlxTarget:
    """A folder of mlx-lm to be made of a model.

    Attributes:
        lossy: whether int8 activations may become floats, and decays be rounded; else such a model is refused.
        floats: the names of layers whose activations became floats.
        moved: by how much, relative, tensors of floats were rounded, by their names.
    """

    lossy: bool = False
    floats: list[str] = field(default_factory=list)
    moved: dict[str, float] = field(default_factory=dict)

    def plan(self, reader: Reader) -> tuple[list[PlannedTensors], dict[str, Any]]:
        """Return the tensors, to be read as they are written, and the config.json of a reader that is open.

        Raises:
            InvalidInput: mlx-lm has no such model, or a layer does not fit; it is named.
        """
        check_known(reader.config)
        names = mlx_names(reader.config)
        layers = {layer: self.needed(reader, layer, names.layer(layer.name)) for layer in ternary_layers(reader)}
        is_rotated = any(needed.block for needed in layers.values())
        groups = [(layer.in_features, 0 if is_rotated else needed.group_size) for layer, needed in layers.items()]
        size = group_size(reader.config, groups, (GROUP,) if is_rotated else SIZES)
        places = [(name, names.tensor(name)) for name in dense_tensors(reader)]
        paths = [(layer, names.layer(layer.name)) for layer in layers]
        if is_rotated and reader.config.tied_embeddings:  # such folders have a head of its own
            places += [(name, names.tensor(HEAD)) for name, _ in places if name == EMBEDDING]
            paths += [(layer, names.layer(HEAD)) for layer in layers if layer.name == EMBEDDING]
        blocks = {path: layers[layer].block for layer, path in paths}
        if is_rotated:
            check_modules(blocks, {path: layer for layer, path in paths})
        planned = [self.float_part(reader, name, stored) for name, stored in places]
        planned += [layer_part(reader, layer, path, layers[layer], size) for layer, path in paths]
        return planned, self.config_json(reader, size, blocks, is_rotated)

    def config_json(self, reader: Reader, size: int, blocks: Mapping[str, int], is_rotated: bool) -> dict[str, Any]:
        """Return the content of config.json, given the block of each packed module by its path."""
        config, names = reader.config, mlx_names(reader.config)
        if is_rotated:
            config = replace(config, tied_embeddings=False)
        said = config_json(config, OwnWriter("i2"), reader.dtype_of(FINAL_NORM))
        del said["quantization_config"]
        if config.delta_net is not None:
            whole = ("architectures", "dtype", "bos_token_id", "eos_token_id", "tie_word_embeddings")
            said = {"model_type": BASE, **{key: said[key] for key in whole}, "text_config": said}
        if is_rotated:
            return said | prism_json(blocks)
        quantization: dict[str, Any] = {"group_size": size, "bits": TERNARY, "mode": "affine"}
        tables = [names.layer(name) for name, shape in outer_shapes(config).items() if len(shape) == 2]
        quantization |= {path: False for path in tables if path not in blocks}
        return {**said, KEY: quantization, "quantization_config": quantization}

    def needed(self, reader: Reader, layer: LinearName, path: str) -> Needed:
        """Return what is to be known of a weight before any is written; InvalidInput where it was made for int8."""
        weight = read_joint(reader, [layer])
        block = 0 if weight.rotation is None else weight.rotation.block
        if block and reader.config.delta_net is None:
            raise InvalidInput(f"format: mlx-lm rotates no inputs of such models, {path} has {weight.rotation}")
        if weight.activation == "a8":
            if not self.lossy:
                raise InvalidInput(
                    f"format: mlx-lm takes float activations, and {path} was made for int8; pass lossy=True (--lossy)"
                )
            self.floats.append(path)
        return Needed(weight.group_size, stored_dtype(weight.w_scale), block)

    def float_part(self, reader: Reader, name: str, stored: str) -> PlannedTensors:
        """Return an embedding, a head, a norm, or another tensor of floats by its name in the file."""
        form = mlx_forms(reader.config).of(name)
        if form is SAME:
            shape = outer_shapes(reader.config).get(name) or tuple(reader.dense(name).shape)
            return PlannedTensors({stored: (reader.dtype_of(name), shape)}, lambda: {stored: reader.dense(name)})
        weight = reader.dense(name)
        if moved := form.moved(weight):
            if not self.lossy or moved == math.inf:
                words = "; pass lossy=True (--lossy)" if moved < math.inf else ", which it cannot hold"
                raise InvalidInput(
                    f"format: mlx-lm reads {stored} by a function that moves its numbers by up to {moved:.1e} of them"
                    f"{words}"
                )
            self.moved[stored] = moved
        theirs = form.write(weight)
        dtype = stored_dtype(theirs)
        return PlannedTensors({stored: (dtype, tuple(theirs.shape))}, lambda: {stored: theirs.to(dtype)})


def check_known(config: DecoderConfig) -> None:
    """Raise InvalidInput where mlx-lm has no such model."""
    if config.sub_norms:
        raise InvalidInput("format: mlx-lm reads BitNet's models as transformers does: use autobitlinear")
    if config.inner_norms:
        raise InvalidInput("format: mlx-lm has no models with norms inside their layers; use autobitlinear or i2")
    if config.delta_net is not None and interval_of(config.delta_net.attends) is None:
        raise InvalidInput("format: in mlx-lm's Qwen3.5 every n-th block attends, in this model others do; use q2_0")


def layer_part(reader: Reader, layer: LinearName, path: str, needed: Needed, size: int) -> PlannedTensors:
    """Return the tensors of a ternary layer by its path in the file, with scales for so many inputs each."""
    rows, groups = layer.out_features, layer.in_features // size
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        f"{path}.weight": (torch.uint32, (rows, layer.in_features // CODES)),
        f"{path}.scales": (needed.dtype, (rows, groups)),
        f"{path}.biases": (needed.dtype, (rows, groups)),
    }
    if layer.has_bias:
        shapes[f"{path}.bias"] = (torch.float32, (rows,))
    if needed.block:
        shapes[f"{path}.signs"] = (torch.float32, (layer.in_features,))

    def content() -> dict[str, torch.Tensor]:
        weight = read_joint(reader, [layer])
        scales = block_scales(path, weight, size).contiguous().to(needed.dtype)
        tensors = {f"{path}.weight": weight.w_packed.contiguous().view(torch.uint32)}
        tensors |= {f"{path}.scales": scales, f"{path}.biases": -scales}
        if weight.rotation is not None:
            tensors[f"{path}.signs"] = weight.rotation.signs
        return tensors if weight.bias is None else tensors | {f"{path}.bias": weight.bias.float()}

    return PlannedTensors(shapes, content)


def group_size(config: DecoderConfig, sizes: Iterable[tuple[int, int]], allowed: Sequence[int]) -> int:
    """Return the most inputs per scale that all weights of a model can have, given inputs and group size of each."""
    common = math.gcd(*(size for pair in sizes for size in pair))
    for size in allowed:
        if common % size == 0:
            return size
    widths = (config.hidden_size, config.q_features, config.intermediate_size)
    words = "128 inputs in models that rotate" if len(allowed) == 1 else "32, 64 or 128 inputs"
    raise InvalidInput(f"format: MLX has a scale per {words}, which {widths} are no multiples of")


def stored_dtype(scales: torch.Tensor) -> torch.dtype:
    """Return the smallest dtype that holds scales: bfloat16, float16, or float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scales.to(dtype).float(), scales):
            return dtype
    return torch.float32
