"""Refusal of transformers' `save_pretrained` on models that hold our layers, which it cannot write.

It would put `w_packed` and `w_scale` under a config.json that promises tensors of transformers, and `from_pretrained`
would make up weights. No attribute of a model survives all the ways to a `save_pretrained`: of a copy, of an unpickled
model, of the outer model where the inner one was converted, with a state_dict given, in a Trainer, in push_to_hub.
So the method of the class that all of them call is wrapped, once, by the first packed layer that is created, copied or
unpickled after transformers was imported.
"""

import functools
import sys
from typing import Any

from torch import nn

from bitnet_jit.errors import InvalidInput

THEIRS = "transformers.modeling_utils"
GUARDED = "_refuses_bitnet_jit_layers"  # an attribute of the wrapped method


def guard_save_pretrained(kind: type[nn.Module]) -> None:
    """Have `save_pretrained` refuse models that hold layers of that kind, where transformers is imported."""
    model_class = getattr(sys.modules.get(THEIRS), "PreTrainedModel", None)
    if model_class is None or hasattr(model_class.save_pretrained, GUARDED):
        return
    original = model_class.save_pretrained

    @functools.wraps(original)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_layers(self, kind)
        return original(self, *args, **kwargs)

    setattr(save_pretrained, GUARDED, True)
    model_class.save_pretrained = save_pretrained


def refuse_layers(model: Any, kind: type[nn.Module]) -> None:
    """Raise InvalidInput where a model holds a layer of that kind; with adapters of peft it writes only these."""
    if getattr(model, "_hf_peft_config_loaded", False):
        return
    for name, module in model.named_modules():
        if isinstance(module, kind):
            raise InvalidInput(
                f"model: save_pretrained cannot write {name}, a {type(module).__name__}, in a way that transformers "
                "reads; use bitnet_jit.save(model, directory), with adapters after bitnet_jit.merge_lora(model); "
                "bitnet_jit.lora_state_dict(model) gives the adapters alone"
            )
