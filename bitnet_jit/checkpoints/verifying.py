"""Two models that ought to be one: their codes, scales and floats, and the logits of a fixed text."""

from dataclasses import dataclass
from pathlib import Path

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.fused_layers import per_group, per_row
from bitnet_jit.checkpoints.loading import load
from bitnet_jit.checkpoints.ternary import TernaryWeight, empty_i2

TEXT = "In the beginning God created the heaven and the earth."
NUM_TOKENS = 32  # of a text made of ids, where there is no tokenizer


@dataclass(frozen=True)
class Verification:
    """How two models compare.

    Attributes:
        codes: the number of ternary weights that were compared.
        different: names of tensors whose codes, or whose floats, are not the same.
        largest_scale: the largest relative difference of two scales.
        largest_difference: of logits of a fixed text, as a share of their standard deviation.
    """

    codes: int
    different: tuple[str, ...]
    largest_scale: float
    largest_difference: float


def verify_same(first: Path, second: Path) -> Verification:
    """Compare two models tensor by tensor, and by the logits of a text."""
    codes, different, largest = 0, [], 0.0
    with make_reader(first) as one, make_reader(second) as other:
        for name in dense_names(one):
            if not torch.equal(one.dense(name).float(), other.dense(name).float()):
                different.append(name)
        for layer in ternary_names(one):
            expected, actual = (
                reader.ternary(layer, empty_i2(layer.out_features, layer.in_features)) for reader in (one, other)
            )
            if not torch.equal(expected.w_packed, actual.w_packed) or not same_bias(expected, actual):
                different.append(layer.name)
            codes += layer.out_features * layer.in_features
            largest = max(largest, scale_difference(expected, actual))
    return Verification(codes, tuple(different), largest, logit_difference(first, second))


def ternary_names(reader: Reader) -> list[LinearName]:
    """Return the ternary layers of a model, a packed embedding and head among them."""
    config = reader.config
    tables = [(name, shape) for name, shape in outer_shapes(config).items() if len(shape) == 2]
    packed = [LinearName(name, shape[0], shape[1], False) for name, shape in tables if reader.holds_codes(name)]
    blocks = (block_names(config, index) for index in range(config.num_layers))
    return packed + [layer for names in blocks for layers in names.linears for layer in layers]


def dense_names(reader: Reader) -> list[str]:
    """Return the tensors of a model that are floats."""
    config = reader.config
    names = [name for name, shape in outer_shapes(config).items() if len(shape) == 1 or not reader.holds_codes(name)]
    blocks = (block_names(config, index) for index in range(config.num_layers))
    return names + [name for block in blocks for name, _ in block.norms(config)]


def same_bias(one: TernaryWeight, other: TernaryWeight) -> bool:
    """Return whether two layers have the same bias, or none."""
    if one.bias is None or other.bias is None:
        return one.bias is other.bias
    return torch.equal(one.bias.float(), other.bias.float())


def scale_difference(one: TernaryWeight, other: TernaryWeight) -> float:
    """Return the largest relative difference of the scales of two layers, where they have codes other than 0."""
    sizes = [weight.group_size for weight in (one, other) if weight.group_size]
    if sizes:
        scales = [per_group(weight, min(sizes)) for weight in (one, other)]
    else:
        scales = [per_row(weight) for weight in (one, other)]
    there = (scales[0] != 0) & (scales[1] != 0)
    difference = (scales[0] - scales[1]).abs() / scales[0].abs().clamp(min=1e-30)
    return float(difference.where(there, 0).max())


def logit_difference(first: Path, second: Path) -> float:
    """Return the largest difference of the logits of a text, as a share of their standard deviation."""
    decoder = load(first)
    ids = list(range(min(NUM_TOKENS, decoder.config.vocab_size)))
    if decoder.tokenizer is not None:
        ids = decoder.tokenizer.encode(TEXT)
    expected = decoder(torch.tensor([ids]))
    del decoder
    difference = (load(second)(torch.tensor([ids])) - expected).abs().max()
    return float(difference / expected.std())
