"""Two models that ought to be one: their codes, scales and floats, and the logits of a fixed text."""

from dataclasses import dataclass
from pathlib import Path

import torch

from bitnet_jit.checkpoints.decoder_layers import dense_tensors, ternary_layers
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.fused_layers import per_group, per_row, read_joint
from bitnet_jit.checkpoints.loading import load
from bitnet_jit.checkpoints.ternary import TernaryWeight

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


def verify_same(first: Path, second: Path, i2_s: str = USUAL) -> Verification:
    """Compare two models tensor by tensor, and by the logits of a text; I2_S of the first is read as a variant."""
    codes, different, largest = 0, [], 0.0
    with make_reader(first, i2_s) as one, make_reader(second) as other:
        for name in dense_tensors(one):
            if not torch.equal(one.dense(name).float(), other.dense(name).float()):
                different.append(name)
        for layer in ternary_layers(one):
            expected, actual = (read_joint(reader, [layer]) for reader in (one, other))
            same = same_bias(expected, actual) and same_rotation(expected, actual)
            if not torch.equal(expected.w_packed, actual.w_packed) or not same:
                different.append(layer.name)
            codes += layer.out_features * layer.in_features
            largest = max(largest, scale_difference(expected, actual))
    return Verification(codes, tuple(different), largest, logit_difference(first, second, i2_s))


def same_bias(one: TernaryWeight, other: TernaryWeight) -> bool:
    """Return whether two layers have the same bias, or none."""
    if one.bias is None or other.bias is None:
        return one.bias is other.bias
    return torch.equal(one.bias.float(), other.bias.float())


def same_rotation(one: TernaryWeight, other: TernaryWeight) -> bool:
    """Return whether two layers rotate their input alike, or not at all."""
    return one.rotation is other.rotation or (one.rotation is not None and one.rotation.same_as(other.rotation))


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


def logit_difference(first: Path, second: Path, i2_s: str) -> float:
    """Return the largest difference of the logits of a text, as a share of their standard deviation."""
    decoder = load(first, i2_s=i2_s)
    ids = list(range(min(NUM_TOKENS, decoder.config.vocab_size)))
    if decoder.tokenizer is not None:
        ids = decoder.tokenizer.encode(TEXT)
    expected = decoder(torch.tensor([ids]))
    del decoder
    difference = (load(second)(torch.tensor([ids])) - expected).abs().max()
    return float(difference / expected.std())
