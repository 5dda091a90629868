"""The tensors of a model of torch with ternary layers, as a format holds them."""

from itertools import chain

import torch
from torch import nn

from bitnet_jit.checkpoints.formats.writer import Writer, encoded
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.convert import pack_named
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import INSIDE, norm_inside
from bitnet_jit.nn.rotation import stored_rotation

Tensors = dict[str, torch.Tensor]


def packed_tensors(model: nn.Module, writer: Writer) -> dict[str, torch.Tensor]:
    """Return every tensor of a model as a format has it, on the CPU.

    Args:
        model: `BitLinear` layers are packed here, `PackedBitLinear` layers are repacked; all else stays as it is.
        writer: of the format.

    Raises:
        InvalidInput: the format cannot hold a layer: scales of rows or groups, float
            activations, outputs that are no multiple of 4. The layer is named.
    """
    ternary: dict[str, torch.Tensor] = {}
    inside: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BitLinear | PackedBitLinear):
            layer = pack_named(name, module) if isinstance(module, BitLinear) else module
            ternary |= layer_tensors(name, layer, writer)
            # not state_dict(), which undoes the layout of the weight
            inside |= {f"{name}.{key}" for key, _ in chain(module.named_parameters(), module.named_buffers())}
    if not inside:
        raise InvalidInput(f"model: {type(model).__name__} has no ternary layer; make them with bitnet_jit.convert")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in inside}
    for name, tensor in rest.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidInput(f"model: {name} is no tensor but a {type(tensor).__name__}, which no format holds")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in (ternary | rest).items()}


def layer_tensors(name: str, layer: PackedBitLinear, writer: Writer) -> dict[str, torch.Tensor]:
    """Return a layer's tensors by their names in the file."""
    if layer.scale != "tensor" or layer.activation != "a8":
        raise InvalidInput(
            f"{name}: this format holds layers with one scale and int8 activations, "
            f"got scale={layer.scale!r}, activation={layer.activation!r}"
        )
    codes, scale = layer.unpack()
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    tensors = encoded(name, codes.cpu(), scale.cpu().float().reshape(1), bias, writer, stored_rotation(layer))
    if (norm := norm_inside(layer)) is not None:
        tensors[f"{name}.{INSIDE}.weight"] = norm.weight
    return tensors


def eps_inside(model: nn.Module, writer: Writer) -> float | None:
    """Return the eps of the norms inside the ternary layers, None where there are none.

    Raises:
        InvalidInput: a file of the format cannot tell: some layers have a norm, or they differ, or it names none.
    """
    layers = (module for module in model.modules() if isinstance(module, BitLinear | PackedBitLinear))
    epses = {None if (norm := norm_inside(layer)) is None else norm.eps for layer in layers}
    if epses == {None}:
        return None
    if len(epses) > 1 or not writer.by_transformers:
        raise InvalidInput(
            f"model: format {writer.name!r} cannot hold the norms inside its layers; autobitlinear and bitlinear hold "
            f"one in every ternary layer, with one eps, found {', '.join(map(str, sorted(epses, key=str)))}"
        )
    return epses.pop()


def ternary_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (N, K) of each ternary weight, by its name in the file."""
    return {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, BitLinear | PackedBitLinear)
    }
