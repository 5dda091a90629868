"""torch's encoders read the weights of their linear layers without calling the layers; ternary ones have to be called.

nn.TransformerEncoderLayer in eval mode hands linear1.weight and linear2.weight to one fused kernel, unless its
`activation_relu_or_gelu` is 0; nn.TransformerEncoder with a padding mask makes a nested tensor for such layers, unless
its `use_nested_tensor` is False. Copies of these classes in other packages have the same attributes. They are set once,
when a ternary layer comes into the model: no call of a layer takes longer, and copies and pickles keep them.
"""

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from bitnet_jit.errors import InvalidInput

FUSED_ACTIVATION = "activation_relu_or_gelu"  # of an encoder layer: the activation of its fused kernel, 0 is none
NESTED = "use_nested_tensor"  # of an encoder: whether padding becomes a nested tensor
READERS = {  # an attribute of modules that read weights and never call the layers -> the names of these layers
    "dt_proj": ("dt_proj",),  # Mamba, Falcon Mamba and Jamba of transformers, and the original
    "torch_multi_head_self_attention": ("q_proj", "k_proj", "v_proj", "out_proj"),  # WavLM of transformers
}


class Called:
    """A base of the layers whose output is right only where they are called."""


def leave_fast_paths(model: nn.Module) -> None:
    """Have every encoder of a model call the layers that have to be called."""
    for module in model.modules():
        for attribute, off in ((FUSED_ACTIVATION, 0), (NESTED, False)):
            if attribute in vars(module) and has_called(module):
                setattr(module, attribute, off)


def has_called(module: nn.Module) -> bool:
    """Return whether a module has to be called or holds one that has, inside a wrapper, for example."""
    return any(isinstance(part, Called) for part in module.modules())


def never_called(model: nn.Module) -> set[int]:
    """Return the ids of layers that compute with their weight of floats, even after a conversion."""
    return {
        id(module._modules[name])
        for module in model.modules()
        for attribute, names in READERS.items()
        if hasattr(type(module), attribute) or attribute in module._modules
        for name in names
        if name in module._modules
    }


def on_registration(parent: nn.Module, name: str, child: Any) -> None:
    """Have a layer called that is assigned by hand: torch runs this hook when a module becomes part of another.

    Raises:
        InvalidInput: the parent is torch's attention, which never calls `out_proj`.
    """
    if FUSED_ACTIVATION in vars(parent) and isinstance(child, nn.Module) and has_called(child):
        setattr(parent, FUSED_ACTIVATION, 0)
    if not (isinstance(parent, nn.MultiheadAttention) and isinstance(child, Called) and isinstance(child, nn.Linear)):
        return
    if name == "out_proj" and type(parent).forward is nn.MultiheadAttention.forward:
        raise InvalidInput(
            f"out_proj: nn.MultiheadAttention reads its weight and never calls it, so a {type(child).__name__} there "
            "would compute with its weight of floats; use an attention that calls its output projection"
        )


register_module_module_registration_hook(on_registration)
