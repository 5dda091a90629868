"""Modules of a model by their names: patterns choose some, and all of some kinds are replaced."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.fast_path import leave_fast_paths

Layer = TypeVar("Layer", bound=nn.Module)


def choose(layers: Mapping[str, Layer], include: Iterable[str] | None, left: set[str]) -> dict[str, Layer]:
    """Return the layers that patterns take, by their names, without those that have any name in `left`.

    Args:
        layers: layers by their names; one layer may have several.
        include: shell patterns of names; None takes all.
        left: names of layers to leave alone.

    Raises:
        InvalidInput: a pattern matches no name.
    """
    taken = set(layers) if include is None else matching(layers, include, "include")
    left_ids = {id(layers[name]) for name in left}
    return {name: layer for name, layer in layers.items() if name in taken and id(layer) not in left_ids}


def matching(layers: Mapping[str, nn.Module], patterns: Iterable[str], argument: str) -> set[str]:
    """Return the names that any pattern matches.

    Raises:
        InvalidInput: a pattern matches no name.
    """
    if isinstance(patterns, str):
        raise InvalidInput(f"{argument}: expected a list of patterns, got the string {patterns!r}")
    matched: set[str] = set()
    for pattern in patterns:
        names = matching_any(layers, (pattern,))
        if not names:
            some = ", ".join(list(layers)[:5]) or "none at all"
            raise InvalidInput(f"{argument}: the pattern {pattern!r} matches no nn.Linear; their names begin: {some}")
        matched |= names
    return matched


def matching_any(layers: Mapping[str, nn.Module], patterns: Iterable[str]) -> set[str]:
    """Return the names that any of the patterns matches."""
    return {name for name in layers for pattern in patterns if fnmatchcase(name, pattern)}


def replace(model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[..., nn.Module]) -> nn.Module:
    """Replace every module of some kinds by make(name, module); an error of `make` leaves the model as it was.

    A module that is reached by several names is replaced by one.

    Returns:
        The model, or its replacement where it is of such a kind.

    Raises:
        InvalidInput: the model holds none.
    """
    modules = {
        name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kinds)
    }
    if not modules:
        expected = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
        raise InvalidInput(f"model: {type(model).__name__} holds no {expected}")
    replacements: dict[int, nn.Module] = {}
    for name, module in modules.items():
        if id(module) not in replacements:
            replacements[id(module)] = make(name, module)
    for name, module in modules.items():
        if not name:
            return replacements[id(module)]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replacements[id(module)])
    leave_fast_paths(model)
    return model
