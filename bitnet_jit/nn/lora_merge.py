"""`merge_lora`: an adapter becomes part of its layer's ternary weight, on the grid that the layer has.

    target = w_q * w_scale + update                          update = alpha / r * B @ A
    merged = clip(round(w_q + update / w_scale), -1, 1)      half to even; w_scale stays

`round` finds the code whose weight lies nearest to the target, so a code changes where its update is more than half a
scale and there is a code on that side. An update of zero changes no bit.

Absmean, which quantizes dense weights, would be wrong here: it assumes their bell shape. The scale that it makes of
w_q * w_scale is w_scale * mean|w_q|. So with an update of zero, a layer with a third of zeros among its codes would
return with every weight, and every output, two thirds as large. Scales by least squares would move with every
update; then layers that share an input and were joined under one scale could not be parted again.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora_linear import LoraLinear
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.nn.rotation import rotation_of
from bitnet_jit.quant.weight import expand_scale


@dataclass(frozen=True)
class MergedLayer:
    """The effect of a merge on one layer.

    Attributes:
        name: the layer's first name in the model.
        changed: number of codes that changed.
        codes: number of codes.
        lost: |merged - target| / |update| in Frobenius norms, from 0 to 1: the share of the update that the ternary
            weight cannot hold; 0 where the update is zero.
    """

    name: str
    changed: int
    codes: int
    lost: float


@dataclass(frozen=True)
class MergeReport:
    """The effect of a merge on a model: see `MergedLayer`.

    >>> print(MergeReport((MergedLayer("0", 3, 32, 0.75), MergedLayer("2", 0, 8, 1.0))))
    layer  codes changed  of  share  update lost
    0                  3  32  9.38%        75.0%
    2                  0   8  0.00%       100.0%
    total              3  40  7.50%
    """

    layers: tuple[MergedLayer, ...]

    @property
    def changed(self) -> int:
        """Return how many codes of all layers changed."""
        return sum(layer.changed for layer in self.layers)

    @property
    def codes(self) -> int:
        """Return how many codes all layers have."""
        return sum(layer.codes for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "codes changed", "of", "share", "update lost")]
        rows += [(*counts(layer.name, layer.changed, layer.codes), f"{layer.lost:.1%}") for layer in self.layers]
        rows += [(*counts("total", self.changed, self.codes), "")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows)
        return "\n".join(lines)


def counts(name: str, changed: int, codes: int) -> tuple[str, str, str, str]:
    """Return the cells that every row has."""
    return name, str(changed), str(codes), f"{changed / max(codes, 1):.2%}"


def merge_lora(model: nn.Module) -> MergeReport:
    """Replace every `LoraLinear` of a model by a `PackedBitLinear` that has its update merged in, in place.

    A ternary weight that is rounded again is not the sum of base and update, so outputs change: an update smaller than
    half a scale is lost altogether. Measure on your data whether the model is still good enough. To keep all of the
    update, run the adapters unmerged. After an error, which names the layer, nothing is changed.

    Scales, bias, format, activation, device and training flag stay. Where no code of a layer changes, it becomes its
    base again, the same object. Where the scale of a row or group is zero, its codes stay. Everything stays frozen.

    Args:
        model: a module that holds LoraLinear layers.

    Returns:
        How many codes of each layer changed, out of how many; it can be printed.

    Raises:
        InvalidInput: there is no LoraLinear, the model is one (see `merged`), or factors are not finite or on "meta".

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
    effects: dict[str, MergedLayer] = {}

    def merge(name: str, layer: LoraLinear) -> PackedBitLinear:
        packed, effects[name] = merged(layer, name)
        return packed

    replace(model, (LoraLinear,), merge)
    return MergeReport(tuple(effects.values()))


def merged(layer: LoraLinear, name: str = "layer") -> tuple[PackedBitLinear, MergedLayer]:
    """Return a packed layer with the update merged in as `merge_lora` does, and the effect; `layer` itself stays.

    Raises:
        InvalidInput: the factors are not finite or on "meta"; the message names the layer by `name`.

    >>> packed, effect = merged(LoraLinear(PackedBitLinear(8, 4)))
    >>> effect
    MergedLayer(name='layer', changed=0, codes=32, lost=0.0)
    """
    update = product(name, layer.lora_A.weight, layer.lora_B.weight, layer.scaling)
    packed, effect = add_to_codes(name, layer.base, update)
    return packed.train(layer.training), effect


def product(name: str, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return scaling * B @ A, (N, K) float32, of A (r, K) and B (N, r); raise InvalidInput unless all is finite."""
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
    """Return the layer whose codes lie nearest to `base` plus update (N, K) float32, and the effect of the merge.

    Where no code changes, the layer is `base` itself. Codes of a folded weight take the update folded alike.
    """
    if (rotation := rotation_of(base)) is not None:
        update = rotation(update)
    w_q, w_scale = base.unpack()
    wide = expand_scale(w_scale, base.in_features, base.group_size)
    moved = (w_q + update / wide).round_().clamp_(-1, 1)
    codes = torch.where(wide == 0, w_q, moved.to(torch.int8))
    changed = int((codes != w_q).sum())
    lost = torch.linalg.vector_norm((codes - w_q) * wide - update, dtype=torch.float64)
    whole = torch.linalg.vector_norm(update, dtype=torch.float64)
    effect = MergedLayer(name, changed, codes.numel(), float(lost / whole) if whole else 0.0)
    if not changed:
        return base, effect
    bias, group_size = base.bias, base.group_size
    packed = PackedBitLinear.from_codes(codes, w_scale, bias, group_size, base.activation, base.format)
    packed.weight_dtype = base.weight_dtype
    if (norm := norm_inside(base)) is not None:
        packed.put_inside(norm)
    if rotation is not None:
        packed.put_rotation(rotation)
    return packed, effect
