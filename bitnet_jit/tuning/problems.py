"""List the problems that a model poses, or a list of shapes, without computing anything."""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.memory import check_fits
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm, norm_inside
from bitnet_jit.ops.linear import BIT_LINEAR
from bitnet_jit.problem import MAX_IN_FEATURES, Problem
from bitnet_jit.tuning.recording import recorded

Shape = tuple[int, int]
MAX_ROWS = 2**31 - 1  # of inputs, and of weights


def problems_of_model(model: nn.Module, rows: Sequence[int]) -> Counter[Problem]:
    """Return the problems of each number of rows, with the number of calls that one pass through the model makes.

    A model whose class has a method `trace_problems(rows, meta_twin)` runs itself on "meta", with its fusions. Of other
    modules each packed layer and norm runs by itself, on activations of the dtype that the model's parameters have.

    Raises:
        InvalidInput: the model has no packed layer, or its layers are on several devices or on "meta".
    """
    device = device_of(model)
    with recorded(device) as problems:
        if (trace := getattr(type(model), "trace_problems", None)) is not None:
            trace(model, rows, meta_twin)
        else:
            run_layers(model, rows, device)
    return problems


def check_memory(problems: Iterable[Problem], device: torch.device) -> None:
    """Raise InvalidInput where a problem's input, output and weight are beyond the memory of the device."""
    for problem in problems:
        num_bytes = problem.rows * (problem.in_features + problem.out_features)  # at least one byte each
        weights = problem.out_features * problem.in_features
        weight = weights // 5 if problem.layout else 0  # five codes per byte in t5
        head = weights * getattr(torch, problem.w_dtype).itemsize if problem.w_dtype else 0
        check_fits(f"rows, model_or_shapes: {problem}", num_bytes + weight + head, device.type)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's packed layers."""
    layers = [module for module in model.modules() if isinstance(module, PackedBitLinear)]
    if not layers:
        raise InvalidInput(
            f"model_or_shapes: {type(model).__name__} has no packed layer; make them with bitnet_jit.pack(model), "
            "or load a ternary checkpoint"
        )
    devices = {layer.w_packed.device for layer in layers}
    if len(devices) > 1 or devices == {torch.device("meta")}:
        names = ", ".join(sorted(map(str, devices)))
        raise InvalidInput(f"model_or_shapes: packed layers are on {names}; tune a model that is on one device")
    return devices.pop()


def run_layers(model: nn.Module, rows: Sequence[int], device: torch.device) -> None:
    """Run each packed layer and norm of any module, on "meta"."""
    dtype = activation_dtype(model, device)
    inside = {id(norm_inside(module)) for module in model.modules()}  # these run with their layers
    for module in model.modules():
        if isinstance(module, PackedBitLinear | RMSNorm) and id(module) not in inside:
            features = module.in_features if isinstance(module, PackedBitLinear) else module.hidden_size
            layer = meta_twin(module)
            for m in rows:
                layer(torch.empty(m, features, dtype=dtype, device="meta"))


def meta_twin(module: Any) -> Any:
    """Return a copy of a module with its parameters on "meta", packed weights in the layout that they have."""
    tensors = (*module.parameters(), *module.buffers())
    copied = copy.deepcopy(module, {id(tensor): on_meta(tensor) for tensor in tensors})
    for old, new in zip(module.modules(), copied.modules(), strict=True):
        if isinstance(old, PackedBitLinear) and isinstance(new, PackedBitLinear):
            new.stay_on_meta(old)
    return copied


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor or parameter of that shape and dtype on "meta"."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def activation_dtype(model: nn.Module, device: torch.device) -> torch.dtype:
    """Return the dtype of the model's parameters beside packed weights and scales, or the device's default."""
    packed = {id(p) for m in model.modules() if isinstance(m, PackedBitLinear) for p in (m.w_packed, m.w_scale)}
    dtypes = (p.dtype for p in model.parameters() if id(p) not in packed and p.is_floating_point())
    return next(dtypes, default_dtype(device))


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of activations on a type of device, where a model does not say."""
    dtype: torch.dtype = getattr(torch, kind_of(device).default_dtype)
    return dtype


def problems_of_shapes(shapes: Any, rows: Sequence[int], device: torch.device) -> Counter[Problem]:
    """Return the problems of packed layers (out_features, in_features) as they mostly are.

    They have i2 weights, one scale, int8 activations and no bias; x and y are bfloat16 on GPUs and float32 on CPUs.
    """
    layout = registry.preferred_layout("i2", device.type)
    scale = torch.empty((), dtype=torch.float32, device="meta")
    with recorded(device) as problems:
        for out_features, in_features in checked_shapes(shapes):
            w_packed = torch.empty(layout.shape(out_features, in_features), dtype=torch.uint8, device="meta")
            for m in rows:
                x = torch.empty(m, in_features, dtype=default_dtype(device), device="meta")
                BIT_LINEAR.torch(x, w_packed, scale, None, in_features, out_features, layout.name, 0, "a8")
    return problems


def checked_shapes(shapes: Any) -> list[Shape]:
    """Raise InvalidInput unless these are pairs of whole numbers that a layer can have."""
    pairs = list(shapes) if isinstance(shapes, Sequence) and not isinstance(shapes, str) else [shapes]
    checked: list[Shape] = []
    for shape in pairs:
        pair = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes)) and len(shape) == 2
        outputs, inputs = map(as_whole, shape) if pair else (None, None)
        if outputs is None or inputs is None or not 1 <= outputs <= MAX_ROWS or not 1 <= inputs <= MAX_IN_FEATURES:
            raise InvalidInput(
                "model_or_shapes: expected an nn.Module, or (out_features, in_features) pairs with in_features up to "
                f"{MAX_IN_FEATURES}, got {show(shape)}"
            )
        checked.append((outputs, inputs))
    if not pairs:
        raise InvalidInput("model_or_shapes: expected at least one (out_features, in_features), got none")
    return checked
