"""Whole models: `convert` makes their linear layers trainable ternary ones, `pack` makes those ready to run."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn import checks
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.fast_path import leave_fast_paths, never_called
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import INSIDE, RMSNorm
from bitnet_jit.quant.weight import EPS

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
    Subclasses of nn.Linear have a behaviour of their own and are left alone.

    Args:
        model: any module.
        include: shell patterns (`*`, `?`, `[...]`) of qualified names, such as "layers.*.mlp.*"; None takes all.
        exclude: patterns of names to leave alone, even where `include` takes them; None leaves heads named "lm_head",
            and layers that their module reads the weight of and never calls, such as "dt_proj" of Mamba.
        use_rms_norm: whether each converted layer normalizes its input, which makes fine-tuning a dense model to
            ternary weights steadier (arXiv 2505.08823); the norms' weights are new parameters.
        rms_norm_eps: of those norms.

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
    taken = set(layers) if include is None else matching(layers, include, "include")
    left_ids = {id(layers[name]) for name in left}
    chosen = [layers[name] for name in layers if name in taken and id(layers[name]) not in left_ids]
    if not chosen:
        raise InvalidInput(f"model: no nn.Linear of {type(model).__name__} is left to convert, out of {len(layers)}")
    for module in chosen:
        checks.check_features(module.in_features, module.out_features)
    norms = {
        id(module): RMSNorm(module.in_features, rms_norm_eps, module.weight.device, module.weight.dtype)
        for module in chosen
        if use_rms_norm
    }
    for module in chosen:
        # a BitLinear adds methods and no state: a new class keeps the object that everybody else holds
        module.__class__ = BitLinear
        if use_rms_norm:
            module.add_module(INSIDE, norms[id(module)])
    leave_fast_paths(model)
    return model


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
    """`layer.pack(format)`, whose error names the layer, as does a warning where all of its codes are 0."""
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


def replace(model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[..., nn.Module]) -> nn.Module:
    """Replace every module of some kinds by make(name, module); all are made first, so an error leaves the model whole.

    What is reached by several names is made once. Returns the model, or its replacement where it is of such a kind.

    Raises:
        InvalidInput: the model holds none.
    """
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kinds)}
    if not found:
        expected = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
        raise InvalidInput(f"model: {type(model).__name__} holds no {expected}")
    made: dict[int, nn.Module] = {}
    for name, module in found.items():
        if id(module) not in made:
            made[id(module)] = make(name, module)
    for name, module in found.items():
        if not name:
            return made[id(module)]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(module)])
    leave_fast_paths(model)
    return model


def matching(layers: Mapping[str, nn.Module], patterns: Iterable[str], argument: str) -> set[str]:
    """The names that any pattern matches; a pattern that matches none raises InvalidInput."""
    if isinstance(patterns, str):
        raise InvalidInput(f"{argument}: expected a list of patterns, got the string {patterns!r}")
    found: set[str] = set()
    for pattern in patterns:
        names = matching_any(layers, (pattern,))
        if not names:
            some = ", ".join(list(layers)[:5]) or "none at all"
            raise InvalidInput(f"{argument}: the pattern {pattern!r} matches no nn.Linear; their names begin: {some}")
        found |= names
    return found


def left_by_default(model: nn.Module, layers: Mapping[str, nn.Module]) -> set[str]:
    """The names that `convert` leaves alone where it is not told: output heads, and layers that are never called."""
    uncalled = never_called(model)
    return matching_any(layers, OUTPUT_HEADS) | {name for name, layer in layers.items() if id(layer) in uncalled}


def matching_any(layers: Mapping[str, nn.Module], patterns: Iterable[str]) -> set[str]:
    """The names that any of the patterns matches."""
    return {name for name in layers for pattern in patterns if fnmatchcase(name, pattern)}
