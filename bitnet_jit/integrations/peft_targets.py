"""`target_modules="all-linear"` of peft, which looks for nn.Linear alone, on models with packed layers.

peft has a hook that adapts a layer of another class, and none that changes the meaning of "all-linear". So its function
that expands "all-linear" is wrapped, once, and adds the names of packed layers for configs that `register` knows.
"""

import importlib
import importlib.util
from functools import wraps
from typing import TYPE_CHECKING, Any

from torch import nn

from bitnet_jit.nn.lora_linear import LoraLinear
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

if TYPE_CHECKING:
    from peft import LoraConfig

EXPAND = "_maybe_include_all_linear_layers"
EXPANDING = ("peft.tuners.tuners_utils", "peft.utils.transformers_weight_conversion")  # where peft calls it
WRAPPED = "finds_packed_layers"  # an attribute of the function that replaces it


def find_packed_layers() -> None:
    """Have "all-linear" of registered configs mean packed layers as well as dense ones.

    Raises:
        ImportError: this peft expands "all-linear" in another way.
    """
    first, *others = (importlib.import_module(name) for name in EXPANDING if importlib.util.find_spec(name))
    expand = getattr(first, EXPAND, None)
    if expand is None:
        raise ImportError(f"peft: expected {first.__name__}.{EXPAND}, found none in this version")
    if hasattr(expand, WRAPPED):
        return

    @wraps(expand)
    def expand_with_packed(peft_config: Any, model: nn.Module) -> Any:
        is_all = means_all(peft_config)
        peft_config = expand(peft_config, model)
        if is_all:
            left = left_alone(peft_config, model)
            names = {name for name, module in model.named_modules() if isinstance(module, PackedBitLinear)}
            peft_config.target_modules = (peft_config.target_modules | names) - left
        return peft_config

    setattr(expand_with_packed, WRAPPED, True)
    for module in (first, *others):
        if hasattr(module, EXPAND):
            setattr(module, EXPAND, expand_with_packed)


def means_all(config: Any) -> bool:
    """Return whether a config is one of `register` and asks for all linear layers."""
    targets = getattr(config, "target_modules", None)
    registered = PackedBitLinear in (getattr(config, "_custom_modules", None) or {})
    return registered and isinstance(targets, str) and targets.lower() == "all-linear"


def left_alone(config: "LoraConfig", model: nn.Module) -> set[str]:
    """Return the names that "all-linear" does not mean: output heads, as in peft, and the inside of adapted layers."""
    from peft import TaskType
    from peft.tuners.tuners_utils import SEQ_CLS_HEAD_NAMES, BaseTunerLayer
    from transformers import PreTrainedModel

    heads: list[Any] = []
    if isinstance(model, PreTrainedModel):
        heads = [model.get_output_embeddings()]
        if heads[0] is None and config.task_type == TaskType.SEQ_CLS:
            heads = [getattr(model, name) for name in SEQ_CLS_HEAD_NAMES if hasattr(model, name)][:1]
    left: set[str] = set()
    for name, module in model.named_modules():
        if any(module is head for head in heads):
            left.add(name)
        if isinstance(module, BaseTunerLayer | LoraLinear):
            left |= {f"{name}.{inner}" for inner, _ in module.named_modules() if inner}
    return left
