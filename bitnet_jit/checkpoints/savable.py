"""Models that a file can hold: a model that no reader would compute alike is refused before anything is written.

A reader makes every linear layer ternary unless config.json names it as dense, and it has no place for adapters. The
head stays dense in every format. Our own formats name no layers.
"""

from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from torch import nn

from bitnet_jit.checkpoints.formats.writer import Writer, check_one_scale
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.network import Network
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.convert import OUTPUT_HEADS
from bitnet_jit.nn.lora_linear import LoraLinear
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

TERNARY = (BitLinear, PackedBitLinear)


def check_savable(model: nn.Module, writer: Writer) -> None:
    """Raise InvalidInput where readers of the format would compute something else; the message names a layer.

    >>> from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
    >>> check_savable(nn.Sequential(nn.Linear(4, 4), BitLinear(4, 4)), OwnWriter("t5"))
    Traceback (most recent call last):
    ...
    bitnet_jit.errors.InvalidInput: model: 0 is dense, and format 't5' holds only a dense head; use autobitlinear
    """
    check_merged(model)
    check_parts(model)
    check_float_head(model)
    check_values(model)
    check_head(model)
    check_whole(model)
    dense = [name for name in dense_layers(model) if not is_head_name(name)]
    if dense and not writer.by_transformers:
        raise InvalidInput(
            f"model: {dense[0]} is dense, and format {writer.name!r} holds only a dense head; use autobitlinear"
        )


def check_merged(model: nn.Module) -> None:
    """Raise InvalidInput where there is an adapter, of ours or of peft."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            raise InvalidInput(
                f"model: {name} has an adapter, which no format holds; merge it first: bitnet_jit.merge_lora(model)"
            )
        if any(kind.__module__.partition(".")[0] == "peft" for kind in type(module).__mro__):
            raise InvalidInput(
                f"model: {name or 'it'} is a {type(module).__name__} of peft, which no format holds; merge it first: "
                "model = model.merge_and_unload()"
            )


def check_parts(model: nn.Module) -> None:
    """Raise InvalidInput where a `Decoder` has parts that no writer knows."""
    for module in model.modules():
        if isinstance(module, Network):
            check_one_scale(module.config)


def check_float_head(model: nn.Module) -> None:
    """Raise InvalidInput where the head of a `Decoder` is int8 or packed."""
    packed = [table.format for table in model.children() if isinstance(table, PackedTable)]
    kind = "int8" if getattr(model, "head_scale", None) is not None else "".join(packed)
    if kind:
        raise InvalidInput(
            f"model: its head is {kind}, which no format holds; save a model that was loaded with head='checkpoint'"
        )


def check_values(model: nn.Module) -> None:
    """Raise InvalidInput where a tensor is not here as a whole, or rotary frequencies are not finite."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise InvalidInput(f"model: {name} is on the meta device; load its values before the model is saved")
        if hasattr(tensor, "full_tensor"):
            raise InvalidInput(f"model: {name} is a part of a sharded tensor; gather the model before it is saved")
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and not bool(buffer.isfinite().all()):
            raise InvalidInput(
                f"model: {name} holds NaN or infinity, so that the model computes nothing; look at rope_theta and the "
                "rotary factors in its config"
            )


def check_head(model: nn.Module) -> None:
    """Raise InvalidInput where the output head is ternary, which no reader makes it."""
    head = output_head(model)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TERNARY) and (module is head or is_head_name(name)):
            raise InvalidInput(
                f"model: {name} is ternary, and readers keep the output head dense; leave it out: bitnet_jit.convert "
                "does so by itself where `exclude` is not given"
            )


def check_whole(model: Any) -> None:
    """Raise InvalidInput where a model of transformers is the inner part of one whose class the config names.

    transformers makes up a new head for such a file.
    """
    name = type(model).__name__
    is_inner = hasattr(model, "base_model_prefix") and getattr(model, "base_model", None) is model
    if is_inner and output_head(model) is None and name not in (getattr(model.config, "architectures", None) or ()):
        raise InvalidInput(
            f"model: a {name} is the inner part of a model and has no head; save the whole model, or, if it needs "
            f"none, set model.config.architectures = [{name!r}]"
        )


def output_head(model: Any) -> nn.Module | None:
    """Return the head of a model of transformers; None where there is none."""
    try:
        head: nn.Module | None = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # of models that are of another library, or have no head
        return None
    return head


def is_head_name(name: str) -> bool:
    """Return whether a name is that of a head.

    >>> is_head_name("lm_head"), is_head_name("model.layers.0.mlp.up_proj")
    (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in OUTPUT_HEADS)


def dense_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that are not ternary.

    >>> dense_layers(nn.Sequential(nn.Linear(4, 4), BitLinear(4, 4)))
    ['0']
    """
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and not isinstance(module, TERNARY)
    ]
