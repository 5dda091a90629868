"""LoRA on packed layers (Hu et al., arXiv 2106.09685): what a ternary checkpoint is fine-tuned with.

    y = base(x) + alpha / r * dropout(x) @ A.T @ B.T        A (r, K), B (N, r)

x is what the base multiplies: where it has a norm inside, the normalized input. The base stays packed and frozen;
gradients pass through it to x, by `bit_linear_input_grad`. Only A and B are trained, in float32 unless they are
converted. B starts at zero, so a new adapter changes no output.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.convert import matching, replace
from bitnet_jit.nn.dense_weight import ReadsDense
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.problem import MAX_IN_FEATURES

Model = TypeVar("Model", bound=nn.Module)

FACTORS = ("lora_A", "lora_B")
FUSED = "quantizes_for_layers"  # an attribute, true in modules that run their layers by `forward_quantized` alone


class Factor(nn.Linear):
    """One of the two small matrices; a class of its own, so that `convert` makes no ternary layer of it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features) of the input's dtype, whatever the weight's is."""
        return F.linear(input, self.weight.to(input.dtype))


class LoraLinear(ReadsDense, nn.Module):
    """A frozen `PackedBitLinear` and trainable low-rank factors beside it.

    Args:
        base: the layer; its parameters are frozen.
        r: rank of the update.
        alpha: the update is multiplied by alpha / r.
        dropout: share of the update's inputs that is dropped in training, from 0 to below 1.

    Attributes:
        base: the packed layer.
        lora_A: its weight is A (r, K) float32, Kaiming-uniform with a = sqrt(5).
        lora_B: its weight is B (N, r) float32, zeros at first.
        scaling: alpha / r.
        weight: as the packed layer has it, with the update added: a stand-in for code that reads it.
        bias: the packed layer's.

    Raises:
        InvalidInput: base is no PackedBitLinear, or a number is out of range.

    >>> layer = LoraLinear(PackedBitLinear(8, 4, bias=False), r=2)
    >>> [(name, tuple(p.shape)) for name, p in layer.named_parameters() if p.requires_grad]
    [('lora_A.weight', (2, 8)), ('lora_B.weight', (4, 2))]
    """

    def __init__(self, base: PackedBitLinear, r: int = 16, alpha: float = 32.0, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(base, PackedBitLinear):
            raise InvalidInput(f"base: expected a PackedBitLinear, got {type(base).__name__}")
        r, alpha, dropout = check_numbers(r, alpha, dropout)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.r, self.alpha, self.dropout = r, alpha, dropout
        self.scaling = alpha / r
        device = base.w_packed.device
        self.lora_A = Factor(self.in_features, r, bias=False, device=device, dtype=torch.float32)
        self.lora_B = Factor(r, self.out_features, bias=False, device=device, dtype=torch.float32)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.base = base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., K) float32, bfloat16 or float16 -> (..., N) of x's dtype; under autocast, of autocast's."""
        y: torch.Tensor = self.base(x)
        if (norm := norm_inside(self.base)) is not None:
            x = norm(x)
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return torch.add(y, self.lora_B(self.lora_A(dropped)), alpha=self.scaling)

    @property
    def weight_dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of `weight`: the packed layer's."""
        return self.base.weight_dtype

    @property
    def bias(self) -> nn.Parameter | None:
        """The packed layer's bias (N,), or None."""
        return self.base.bias

    def _dense(self) -> torch.Tensor:
        update = self.lora_B.weight.detach().float() @ self.lora_A.weight.detach().float()
        return (self.base.dequantize() + self.scaling * update).to(self.weight_dtype)

    def _place(self) -> torch.device:
        return self.base.w_packed.device

    def extra_repr(self) -> str:
        return f"r={self.r}, alpha={self.alpha:g}, dropout={self.dropout:g}"


def check_numbers(r: int, alpha: float, dropout: float) -> tuple[int, float, float]:
    """The numbers of an adapter, as Python's own; InvalidInput where one is out of range."""
    rank = whole_number("r", r, most=MAX_IN_FEATURES)
    scale, share = as_real(alpha), as_real(dropout)
    if scale is None or not 0 < scale < math.inf:
        raise InvalidInput(f"alpha: expected a positive finite number, got {show(alpha)}")
    if share is None or not 0 <= share < 1:
        raise InvalidInput(f"dropout: expected a number from 0 to below 1, got {show(dropout)}")
    return rank, scale, share


def add_lora(
    model: Model,
    r: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
) -> Model:
    """Put adapters beside the packed layers of a model, in place, and freeze everything else.

    A layer that is reached by several names gets one adapter. Layers that have one keep it, and whether it is frozen:
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
        InvalidInput: a number is out of range, a pattern matches no packed layer, none is left to adapt, or the model
            runs its layers' weights without calling the layers, as `bitnet_jit.load` makes it. Then nothing is changed.

    >>> model = nn.Sequential(PackedBitLinear(8, 16), nn.ReLU(), PackedBitLinear(16, 2))
    >>> model = add_lora(model, r=4, exclude=["2"])
    >>> sorted(lora_state_dict(model)), sum(p.numel() for p in model.parameters() if p.requires_grad)
    (['0.lora_A.weight', '0.lora_B.weight'], 96)
    """
    r, alpha, dropout = check_numbers(r, alpha, dropout)
    chosen = choose(model, include, exclude)
    kept = {id(p) for layer in lora_layers(model).values() for p in (layer.lora_A.weight, layer.lora_B.weight)}

    def wrap(_: str, layer: PackedBitLinear) -> nn.Module:
        return LoraLinear(layer, r, alpha, dropout) if id(layer) in chosen else layer

    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
    return replace(model, (PackedBitLinear,), wrap)  # type: ignore[return-value]


def choose(model: nn.Module, include: Iterable[str] | None, exclude: Iterable[str] | None) -> set[int]:
    """The ids of the packed layers without an adapter that the patterns take; InvalidInput where there is none."""
    modules = dict(model.named_modules(remove_duplicate=False))
    adapted = {id(module.base) for module in modules.values() if isinstance(module, LoraLinear)}
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, PackedBitLinear) and id(module) not in adapted
    }
    taken = set(layers) if include is None else matching(layers, include, "include")
    left_ids = {id(layers[name]) for name in matching(layers, exclude or (), "exclude")}
    chosen = {name: layers[name] for name in layers if name in taken and id(layers[name]) not in left_ids}
    if not chosen:
        raise InvalidInput(
            f"model: no PackedBitLinear of {type(model).__name__} is left to adapt, out of {len(layers)} without an "
            "adapter; bitnet_jit.pack makes them"
        )
    check_called({name: type(modules[name.rpartition(".")[0]]) for name in chosen})
    return {id(layer) for layer in chosen.values()}


def check_called(parents: dict[str, type]) -> None:
    """Raise InvalidInput unless the modules that hold the layers of those names call them."""
    for name, parent in parents.items():
        if getattr(parent, FUSED, False):
            raise InvalidInput(
                f"model: {name} is part of {parent.__name__}, which runs the weights of its layers without calling "
                "them; load the checkpoint with transformers and use bitnet_jit.patch"
            )


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by their names, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def lora_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the adapters alone, each once, by their names in `model.state_dict()`.

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
