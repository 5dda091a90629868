"""Adapters of whole models: `add_lora` puts them beside packed layers, `lora_state_dict` gives their tensors."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora_linear import FACTORS, LoraLinear, check_numbers
from bitnet_jit.nn.modules import choose, matching, replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

Model = TypeVar("Model", bound=nn.Module)

FUSED = "quantizes_for_layers"  # an attribute, true in modules that run their layers by `forward_quantized` alone


def add_lora(
    model: Model,
    r: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
) -> Model:
    """Put adapters beside the packed layers of a model, in place, and freeze everything else.

    A layer that is reached by several names gets one adapter. A layer that has an adapter keeps it, frozen or not:
    a second call can give other layers another rank. Make the optimizer afterwards, and load the checkpoint before.

    Args:
        model: a module that holds PackedBitLinear layers, such as one of `pack` or `patch`.
        r: rank of the updates.
        alpha: an update is multiplied by alpha / r.
        dropout: share of an update's inputs that is dropped in training, from 0 to below 1.
        include: shell patterns (`*`, `?`, `[...]`) of qualified names, such as "layers.*.mlp.*"; None takes all.
        exclude: patterns of names to leave alone, even where `include` takes them.

    Returns:
        The model; where it is a PackedBitLinear itself, the LoraLinear.

    Raises:
        InvalidInput: a number is out of range, a pattern matches no packed layer, none is left to adapt, or a model of
            `bitnet_jit.load` runs the weights without calling the layers. Then nothing is changed.

    >>> model = nn.Sequential(PackedBitLinear(8, 16), nn.ReLU(), PackedBitLinear(16, 2))
    >>> model = add_lora(model, r=4, exclude=["2"])
    >>> sorted(lora_state_dict(model)), sum(p.numel() for p in model.parameters() if p.requires_grad)
    (['0.lora_A.weight', '0.lora_B.weight'], 96)
    """
    r, alpha, dropout = check_numbers(r, alpha, dropout)
    chosen = choose_packed(model, include, exclude)
    freeze_all_but_adapters(model)
    return replace(  # type: ignore[return-value]
        model, (PackedBitLinear,), lambda _, base: LoraLinear(base, r, alpha, dropout) if id(base) in chosen else base
    )


def freeze_all_but_adapters(model: nn.Module) -> None:
    """Freeze every parameter of a model; factors of adapters stay as they are."""
    kept = {id(p) for layer in lora_layers(model).values() for p in (layer.lora_A.weight, layer.lora_B.weight)}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def choose_packed(model: nn.Module, include: Iterable[str] | None, exclude: Iterable[str] | None) -> set[int]:
    """Return the ids of packed layers without an adapter that the patterns take; raise InvalidInput if none is left."""
    modules = dict(model.named_modules(remove_duplicate=False))
    adapted = {id(module.base) for module in modules.values() if isinstance(module, LoraLinear)}
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, PackedBitLinear) and id(module) not in adapted
    }
    chosen = choose(layers, include, left=matching(layers, exclude or (), "exclude"))
    if not chosen:
        raise InvalidInput(
            f"model: no PackedBitLinear of {type(model).__name__} is left to adapt, out of {len(layers)} without an "
            "adapter; bitnet_jit.pack makes them"
        )
    check_called({name: type(modules[name.rpartition(".")[0]]) for name in chosen})
    return {id(layer) for layer in chosen.values()}


def check_called(parents: dict[str, type]) -> None:
    """Raise InvalidInput unless the modules that hold layers of these names call them."""
    for name, parent in parents.items():
        if getattr(parent, FUSED, False):
            raise InvalidInput(
                f"model: {name} is part of {parent.__name__}, which runs the weights of its layers without calling "
                "them; load the checkpoint with transformers and use bitnet_jit.patch"
            )


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the adapted layers of a model by their names, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def lora_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the adapters alone, each once, by their names in `model.state_dict()`.

    `model.load_state_dict(tensors, strict=False)` puts them back into a model with the same adapters.

    Args:
        model: a module with `LoraLinear` layers, or one itself.

    Returns:
        "<layer>.lora_A.weight" (r, K) and "<layer>.lora_B.weight" (N, r), detached and not copied.

    Raises:
        InvalidInput: the model has no adapters.

    >>> sorted(lora_state_dict(LoraLinear(PackedBitLinear(8, 4), r=2)))
    ['lora_A.weight', 'lora_B.weight']
    """
    layers = lora_layers(model)
    if not layers:
        raise InvalidInput(f"model: {type(model).__name__} has no LoraLinear; bitnet_jit.add_lora makes them")
    return {
        f"{name}.{factor}.weight".removeprefix("."): layer.get_parameter(f"{factor}.weight").detach()
        for name, layer in layers.items()
        for factor in FACTORS
    }
