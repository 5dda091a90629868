"""Whole models of mlx.nn: `convert` makes their linear layers ternary, for training; `pack` makes them ready to run."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mlx import nn
from mlx.utils import tree_unflatten

from bitnet_jit.errors import InvalidInput
from bitnet_jit.mlx.training import BitLinear
from bitnet_jit.nn.checks import check_features
from bitnet_jit.nn.convert import OUTPUT_HEADS
from bitnet_jit.nn.modules import matching, matching_any

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> Model:
    """Turn mlx.nn.Linear layers into `BitLinear`, in place; each keeps its parameters. Subclasses are left alone.

    Args:
        model: any module.
        include: shell patterns (`*`, `?`, `[...]`) of paths, such as "layers.*.mlp.*"; None takes all.
        exclude: patterns of paths to leave alone, even where `include` takes them; None leaves heads named "lm_head".

    Returns:
        The model.

    Raises:
        InvalidInput: a pattern matches no mlx.nn.Linear, nothing is left to convert, or a layer is too large. Then
            nothing is changed.

    >>> model = convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), exclude=["layers.2"])
    >>> [type(layer).__name__ for layer in model.layers]
    ['BitLinear', 'ReLU', 'Linear']
    """
    layers: Any = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    taken = set(layers) if include is None else matching(layers, include, "include")
    left = matching_any(layers, OUTPUT_HEADS) if exclude is None else matching(layers, exclude, "exclude")
    if not taken - left:
        raise InvalidInput(f"model: no mlx.nn.Linear of {type(model).__name__} is left, out of {len(layers)}")
    for name in taken - left:
        out_features, in_features = layers[name].weight.shape
        check_features(in_features, out_features)
    for name in taken - left:
        layers[name].__class__ = BitLinear  # which adds methods and no state
    return model


def pack(model: Model, activation: str = "a8") -> Model:
    """Replace every `BitLinear` of a model by its `PackedBitLinear`, in place; the outputs stay the same bit for bit.

    Raises:
        InvalidInput: the model holds none, a weight holds NaN or infinity, or the activation is unknown.

    >>> model = pack(convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU())))
    >>> [type(layer).__name__ for layer in model.layers]
    ['PackedBitLinear', 'ReLU']
    """
    return replaced(model, lambda layer: layer.pack(activation) if isinstance(layer, BitLinear) else None, "BitLinear")


def replaced(model: Model, make: Callable[[Any], nn.Module | None], expected: str) -> Model:
    """Replace modules of a model by what `make` gives for them, where that is not None; an error leaves all as it was.

    Raises:
        InvalidInput: none is replaced.
    """
    made = [(name, make(module)) for name, module in model.named_modules() if name]
    new = [(name, module) for name, module in made if module is not None]
    if not new:
        raise InvalidInput(f"model: expected modules of {type(model).__name__} that are {expected}, found none")
    model.update_modules(tree_unflatten(new))
    return model
