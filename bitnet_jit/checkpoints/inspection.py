"""`inspect_checkpoint`: what is in a model's files, tensor by tensor, and what would run it."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bitnet_jit.checkpoints.checks import count_codes
from bitnet_jit.checkpoints.decoder_layers import ternary_layers
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.checkpoints.formats.reader import Reader, StoredAs
from bitnet_jit.checkpoints.formats.registry import format_of, make_reader
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.checkpoints.loading import check_variant, variant_of
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import BitNetError
from bitnet_jit.models.config import DecoderConfig

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LayerRow:
    """A ternary layer as it was read.

    Attributes:
        name: ours.
        shape: (N, K).
        density: share of weights that are not zero.
        scales: the least and the largest.
        scale: "tensor", "row", or "group of K" with the inputs per scale.
        activation: as which the model runs it.
        block: inputs that the rotation before it mixes, 0 where there is none.
    """

    name: str
    shape: tuple[int, int]
    density: float
    scales: tuple[float, float]
    scale: str
    activation: str
    block: int = 0


@dataclass(frozen=True)
class Inspection:
    """What is in a model's files.

    Attributes:
        path: of the files.
        stored: every tensor of theirs, by its own name, type and shape.
        description: which format was found, in words; "" where the model cannot be read.
        config: its architecture, None where it cannot be read.
        layers: its ternary layers.
        tokenizer: the kind of its tokenizer, or "none".
        has_template: whether it has a chat template.
        kernels: which kernel runs each kind of layer for one row on the CPU.
        problem: why the model cannot be read; "" where it can.
    """

    path: str
    stored: tuple[StoredAs, ...]
    description: str = ""
    config: DecoderConfig | None = None
    layers: tuple[LayerRow, ...] = ()
    tokenizer: str = "none"
    has_template: bool = False
    kernels: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    @property
    def bits(self) -> dict[float, float]:
        """Return the share of all weights that have so many bits each, by bits."""
        weights: Counter[float] = Counter()
        for tensor in self.stored:
            if count := torch.Size(tensor.shape).numel():
                weights[round(8 * tensor.num_bytes / count, 2)] += count
        return {bits: count / weights.total() for bits, count in sorted(weights.items())}


def inspect_checkpoint(
    source: str | os.PathLike[str], progress: Progress | None = None, i2_s: str = USUAL
) -> Inspection:
    """Tell what is in a model's files, whether it can be run or not.

    Args:
        source: a folder, a GGUF file or a hub id.
        progress: called with the number of layers that are read, and that there are, after each.
        i2_s: as in `load`.

    Raises:
        CheckpointError: the files cannot be read at all; a model that we cannot run has its `problem` told instead.

    >>> import bitnet_jit
    >>> result = inspect_checkpoint(bitnet_jit.embedded_model())
    >>> len(result.layers), result.layers[0].scale, result.problem
    (42, 'tensor', '')
    """
    path = find_model(source)
    stored = tuple(format_of(path).contents(path))
    check_variant(i2_s)
    try:
        reader = make_reader(path, variant_of(path, i2_s))
        layers = tuple(layer_rows(reader, progress or (lambda *_: None)))
        tokenizer = reader.tokenizer()
        return Inspection(
            str(path),
            stored,
            reader.description,
            reader.config,
            layers,
            "none" if tokenizer is None else type(tokenizer).__name__,
            format_of(path).chat(path).source is not None,
            tuple(kernels_of(layers).items()),
        )
    except BitNetError as error:
        return Inspection(str(path), stored, problem=str(error))


def layer_rows(reader: Reader, progress: Progress) -> list[LayerRow]:
    """Read the ternary layers of a model, and return what is to be said of each."""
    rows = []
    with reader:
        layers = ternary_layers(reader)
        for layer in layers:
            rows.append(row_of(layer, read_joint(reader, [layer])))
            progress(len(rows), len(layers))
    return rows


def row_of(layer: LinearName, weight: TernaryWeight) -> LayerRow:
    """Return what is to be said of a layer."""
    used = weight.w_scale[weight.w_scale != 0] if weight.w_scale.dim() else weight.w_scale.reshape(1)
    bounds = (float(used.min()), float(used.max())) if len(used) else (0.0, 0.0)
    kinds = {0: "tensor", 1: "row", 2: f"group of {weight.group_size}"}
    density = count_codes(weight.w_packed, weight.in_features).density
    shape = (layer.out_features, layer.in_features)
    block = 0 if weight.rotation is None else weight.rotation.block
    return LayerRow(layer.name, shape, density, bounds, kinds[weight.w_scale.dim()], weight.activation, block)


def kernels_of(layers: tuple[LayerRow, ...]) -> dict[str, str]:
    """Return the kernel that runs each kind of layer for one row on this machine's CPU, by the kind in words."""
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
    from bitnet_jit.ops.calls import DISPATCHER
    from bitnet_jit.tuning.problems import problems_of_model

    kernels = {}
    for (n, k), scale, activation in dict.fromkeys((row.shape, row.scale, row.activation) for row in layers):
        size = int(scale.rpartition(" ")[2]) if scale.startswith("group") else 0
        layer = PackedBitLinear(k, n, bias=False, scale=scale.partition(" ")[0], group_size=size, activation=activation)
        (problem,) = problems_of_model(layer, (1,))
        kernels[f"{n} x {k}, scale per {scale}, {activation}"] = DISPATCHER.choose(problem).kernel.name
    return kernels
