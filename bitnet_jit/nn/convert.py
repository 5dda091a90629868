"""Whole models: `convert` makes their linear layers ternary, for training; `pack` makes ternary ones ready to run."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn import checks
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.fast_path import leave_fast_paths, never_called
from bitnet_jit.nn.modules import choose, matching, matching_any, replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import INSIDE, RMSNorm
from bitnet_jit.problem import EPS

Model = TypeVar("Model", bound=nn.Module)

OUTPUT_HEADS = ("lm_head", "*.lm_head")  # BitNet keeps embeddings and the output head in full precision


def convert(
    model: Model,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    use_rms_norm: bool = False,
    rms_norm_eps: float = 1e-6,
) -> Model:
    """Turn nn.Linear layers into `BitLinear`, in place.

    Each layer stays the same object with the same parameters, so optimizers, hooks and tied weights stay valid.
    Subclasses of nn.Linear behave in other ways and are left alone.

    Args:
        model: any module.
        include: shell patterns (`*`, `?`, `[...]`) of qualified names, such as "layers.*.mlp.*"; None takes all.
        exclude: patterns of names to leave alone, even where `include` takes them; None leaves heads named "lm_head",
            and layers that are never called because their module reads the weight, such as "dt_proj" of Mamba.
        use_rms_norm: whether each converted layer normalizes its input, which makes fine-tuning a dense model to
            ternary weights steadier (arXiv 2505.08823); the norms' weights are new parameters.
        rms_norm_eps: eps of these norms.

    Returns:
        The model.

    Raises:
        InvalidInput: a pattern matches no nn.Linear, nothing is left to convert, a layer is too large, or rms_norm_eps
            is out of range. Then nothing is changed.

    >>> model = convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), exclude=["2"])
    >>> [type(module).__name__ for module in model]
    ['BitLinear', 'ReLU', 'Linear']
    """
    layers = {name: module for name, module in model.named_modules(remove_duplicate=False) if type(module) is nn.Linear}
    left = matching(layers, exclude, "exclude") if exclude is not None else left_by_default(model, layers)
    chosen = choose(layers, include, left)
    if not chosen:
        raise InvalidInput(f"model: no nn.Linear of {type(model).__name__} is left to convert, out of {len(layers)}")
    become_ternary(list(chosen.values()), use_rms_norm, rms_norm_eps)
    leave_fast_paths(model)
    return model


def become_ternary(layers: Sequence[nn.Linear], use_rms_norm: bool, rms_norm_eps: float) -> None:
    """Make each nn.Linear a `BitLinear`, with a norm of its input or without; an error leaves all as they were."""
    for layer in layers:
        checks.check_features(layer.in_features, layer.out_features)
    norms = {
        id(layer): RMSNorm(layer.in_features, rms_norm_eps, layer.weight.device, layer.weight.dtype)
        for layer in layers
        if use_rms_norm
    }
    for layer in layers:
        # a BitLinear adds methods and no state: a new class keeps the object that everybody else holds
        layer.__class__ = BitLinear
        if use_rms_norm:
            layer.add_module(INSIDE, norms[id(layer)])


def pack(model: nn.Module, format: str = "i2") -> nn.Module:
    """Replace every `BitLinear` of a model by its `PackedBitLinear`, in place.

    Layers that share one weight share its packed copy. An embedding tied to a layer keeps the dense weight.

    Args:
        model: a module that holds BitLinear layers, or one itself.
        format: "i2" or "t5".

    Returns:
        The model; where it is a BitLinear itself, the packed layer.

    Raises:
        InvalidInput: there is no BitLinear, a weight holds NaN or infinity, or the format is unknown. Then nothing is
            replaced.

    Warns:
        UserWarning: a layer is dead: all of its weights are 0.

    >>> pack(nn.Sequential(BitLinear(8, 4, bias=False)))
    Sequential(
      (0): PackedBitLinear(in_features=8, out_features=4, bias=False, format=i2, scale=tensor, activation=a8)
    )
    """
    packed_by_weight: dict[int, PackedBitLinear] = {}

    def pack_layer(name: str, layer: BitLinear) -> PackedBitLinear:
        packed = pack_named(name or "model", layer, format)
        first = packed_by_weight.setdefault(id(layer.weight), packed)
        packed.w_packed, packed.w_scale = first.w_packed, first.w_scale
        return packed

    return replace(model, (BitLinear,), pack_layer)


def pack_named(name: str, layer: BitLinear, format: str = "i2") -> PackedBitLinear:
    """Return layer.pack(format); an error names the layer, as does a warning where all of its codes are 0."""
    try:
        packed = layer.pack(format)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None
    if not layer.weight.is_meta and not (layer.weight.detach().abs() > EPS / 2).any():
        warnings.warn(
            f"{name}: is dead: no weight is above {EPS / 2:g}, so that every code is 0 and the output is the bias, or "
            "0, for every input",
            stacklevel=3,
        )
    return packed


def left_by_default(model: nn.Module, layers: Mapping[str, nn.Module]) -> set[str]:
    """Return the names that `convert` leaves alone by default: output heads, and layers that are never called."""
    uncalled = never_called(model)
    return matching_any(layers, OUTPUT_HEADS) | {name for name, layer in layers.items() if id(layer) in uncalled}
