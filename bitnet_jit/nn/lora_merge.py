"""`merge_lora`: an adapter becomes part of its layer's ternary weight, on the grid that the layer has.

    target = w_q * w_scale + update                          update = alpha / r * B @ A
    merged = clip(round(w_q + update / w_scale), -1, 1)      half to even; w_scale stays

`round` finds the code whose weight lies nearest to the target, so a code changes where its update is more than half a
scale and points where a code is left. An update of zero changes no bit.

Absmean, which quantizes dense weights, would not do here: it assumes their bell shape. Of w_q * w_scale it makes the
scale w_scale * mean|w_q|, so codes with a third of zeros would return with every weight, and every output, two thirds
as large, by an update of zero. Scales by least squares would move with every update; then layers that share an input
and were joined under one scale could not be parted again.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.convert import replace
from bitnet_jit.nn.lora import LoraLinear
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.quant import expand_scale


@dataclass(frozen=True)
class MergedLayer:
    """What merging did to one layer.

    Attributes:
        name: the layer's first name in the model.
        changed: how many codes are others than before.
        codes: how many there are.
        lost: |merged - target| / |update| in Frobenius norms, from 0 to 1: the share of the update that the ternary
            weight cannot hold; 0 where the update is zero.
    """

    name: str
    changed: int
    codes: int
    lost: float


@dataclass(frozen=True)
class MergeReport:
    """What merging did to a model: see `MergedLayer`.

    >>> print(MergeReport((MergedLayer("0", 3, 32, 0.75), MergedLayer("2", 0, 8, 1.0))))
    layer  codes changed  of  share  update lost
    0                  3  32  9.38%        75.0%
    2                  0   8  0.00%       100.0%
    total              3  40  7.50%
    """

    layers: tuple[MergedLayer, ...]

    @property
    def changed(self) -> int:
        """How many codes of all layers changed."""
        return sum(layer.changed for layer in self.layers)

    @property
    def codes(self) -> int:
        """How many codes all layers have."""
        return sum(layer.codes for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "codes changed", "of", "share", "update lost")]
        rows += [(*counts(layer.name, layer.changed, layer.codes), f"{layer.lost:.1%}") for layer in self.layers]
        rows += [(*counts("total", self.changed, self.codes), "")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows)
        return "\n".join(lines)


def counts(name: str, changed: int, codes: int) -> tuple[str, str, str, str]:
    """The cells of a row that all rows have."""
    return name, str(changed), str(codes), f"{changed / max(codes, 1):.2%}"


def merge_lora(model: nn.Module) -> MergeReport:
    """Replace every `LoraLinear` of a model by a `PackedBitLinear` that has its update merged in, in place.

    A ternary weight that is rounded again is not the sum of base and update, so outputs change: an update smaller than
    half a scale is lost altogether. The report tells how many codes changed and how much was lost; whether the model
    is still good enough is yours to measure, on your data. To keep all of the update, run the adapters unmerged.

    Scales, bias, format, activation, device and training flag stay. A layer of which no code changes becomes its base
    again, the same object. Where a row's or group's scale is zero, its codes stay. Everything stays frozen.

    Args:
        model: a module that holds LoraLinear layers.

    Returns:
        How many codes of each layer changed, out of how many; print it.

    Raises:
        InvalidInput: there is no LoraLinear, the model is one itself (`merged` merges it), or factors are not finite or
            on "meta"; the message names the layer. Then nothing is changed.

    >>> from bitnet_jit.nn.lora import add_lora
    >>> model = add_lora(nn.Sequential(PackedBitLinear(8, 4, bias=False)), r=1, alpha=1.0)
    >>> for factor in (model[0].lora_A, model[0].lora_B):
    ...     _ = nn.init.constant_(factor.weight, 0.8)
    >>> print(merge_lora(model))
    layer  codes changed  of    share  update lost
    0                 32  32  100.00%        56.2%
    total             32  32  100.00%
    """
    if isinstance(model, LoraLinear):
        raise InvalidInput(
            "model: is a LoraLinear itself and cannot be replaced in place; use bitnet_jit.nn.lora_merge.merged"
        )
    layers: list[MergedLayer] = []

    def make(name: str, layer: LoraLinear) -> PackedBitLinear:
        packed, done = merged(layer, name)
        layers.append(done)
        return packed

    replace(model, (LoraLinear,), make)
    return MergeReport(tuple(layers))


def merged(layer: LoraLinear, name: str = "layer") -> tuple[PackedBitLinear, MergedLayer]:
    """One layer with its update merged in, which `merge_lora` tells about, and what that did; the layer stays.

    Raises:
        InvalidInput: the factors are not finite or on "meta"; the message names the layer by `name`.

    >>> packed, done = merged(LoraLinear(PackedBitLinear(8, 4)))
    >>> done
    MergedLayer(name='layer', changed=0, codes=32, lost=0.0)
    """
    update = product(name, layer.lora_A.weight, layer.lora_B.weight, layer.scaling)
    packed, done = add_to_codes(name, layer.base, update)
    return packed.train(layer.training), done


def product(name: str, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """The update scaling * B @ A, (N, K) float32, of A (r, K) and B (N, r); InvalidInput unless all is finite."""
    for factor, tensor in {"lora_A": a, "lora_B": b}.items():
        if tensor.is_meta:
            raise InvalidInput(f"{name}.{factor}.weight: is on the meta device; load it before it is merged")
        if not torch.isfinite(tensor).all():
            worst = tensor.detach()[~torch.isfinite(tensor)][0].item()
            raise InvalidInput(f"{name}.{factor}.weight: expected finite values, found {worst}")
    with torch.autocast(a.device.type, enabled=False):
        update = (b.detach().float() @ a.detach().float()).mul_(scaling)
    if not torch.isfinite(update).all():
        raise InvalidInput(f"{name}: the update {scaling:g} * B @ A overflows float32")
    return update


def add_to_codes(name: str, base: PackedBitLinear, update: torch.Tensor) -> tuple[PackedBitLinear, MergedLayer]:
    """The layer whose codes lie nearest to those of `base` plus update (N, K) float32, and how far that is.

    Where no code changes it is `base` itself.
    """
    w_q, w_scale = base.unpack()
    wide = expand_scale(w_scale, base.in_features, base.group_size)
    moved = (w_q + update / wide).round_().clamp_(-1, 1)
    codes = torch.where(wide == 0, w_q, moved.to(torch.int8))
    changed = int((codes != w_q).sum())
    lost = torch.linalg.vector_norm((codes - w_q) * wide - update, dtype=torch.float64)
    whole = torch.linalg.vector_norm(update, dtype=torch.float64)
    done = MergedLayer(name, changed, codes.numel(), float(lost / whole) if whole else 0.0)
    if not changed:
        return base, done
    bias, group_size = base.bias, base.group_size
    packed = PackedBitLinear.from_codes(codes, w_scale, bias, group_size, base.activation, base.format)
    packed.weight_dtype = base.weight_dtype
    if (norm := norm_inside(base)) is not None:
        packed.put_inside(norm)
    return packed, done
